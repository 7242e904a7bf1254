"""Programs that print what Kasbah costs, as ratios measured side by side in one run. None of them is a test."""
