"""VidDiffBench: how do two videos of one action differ? Its files, its closed and its open setting."""
