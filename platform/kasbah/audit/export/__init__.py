"""Exports of the log, and the program that checks them anywhere."""
