"""What Kasbah leaves of the real engine's speed."""
