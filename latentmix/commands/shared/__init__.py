"""What several commands share: a session of a run, rounds, grids of runs, trackers, uploads."""
