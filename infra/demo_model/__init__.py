"""The demo model: a dense model that ships in a Python package, written as a sparse mixture of experts."""
