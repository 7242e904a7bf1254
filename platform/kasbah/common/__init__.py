"""What every app uses and that knows of none: ids, errors, row-level security, group commit, sealed columns."""
