"""The product examined from outside: calibration and score beside the truth, on columns and specimens that a file lists."""
