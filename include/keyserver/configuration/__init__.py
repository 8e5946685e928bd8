"""The declared configuration: a YAML document that says who may upload, who signs and what is released where.

`load` reads and checks it, `plan` compares it with what is stored, `apply` stores the difference. docs/ has an example.
"""
