"""Fitting: batches, steps, checkpoints, runs. (genssl.fit, the function, hides this package: import from genssl.fit.x.)"""
