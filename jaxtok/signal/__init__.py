"""Parameter-free front ends: spectrograms and resampling."""
