"""Messages of the wire, generated from the .proto files beside this one; a test holds them to these.

After a change of a .proto file, from the project's root:

    python -m grpc_tools.protoc -I include --python_out=include --pyi_out=include include/keyserver/protocol/pb/*.proto
"""
