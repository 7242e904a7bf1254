"""The report of an export for people: renderings of report.json, which prove nothing by themselves."""
