"""What the gateway and the way to the worker cost, with an engine that costs almost nothing."""
