"""Expectation suites as code: each expectation has an owner, a reason and a severity.

`block` keeps what fails from going on; `warn` is reported. Great Expectations costs seconds to import, so it is
imported where a suite runs and nowhere else.
"""
