"""The transparency log: Merkle tree, tiles, signed notes (pure), and the sequencer that fills it."""
