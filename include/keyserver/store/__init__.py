"""The only place that speaks SQL: `database` and one module an aggregate over sql/queries.

Functions take a connection and never commit: a use case owns its transaction.
"""
