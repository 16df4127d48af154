"""Sweeps: the Optuna study is the one record of trials, Ray Tune or a local pool runs them. Only user of both."""
