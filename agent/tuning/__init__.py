"""Tuning: how one data set is best reconstructed, found by counts that were held out."""
