"""What the control plane and the workers say to each other; the only part of the worker that `kasbah` imports."""
