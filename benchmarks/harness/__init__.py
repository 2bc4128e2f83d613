"""What benchmarks share: their frame, the formats and libraries that they compare with, and videos."""
