"""The equations of rectified-flow training and sampling. Imports torch and nothing else.

Four independent axes make an objective: path x prediction x timestep density x shift (SD3 paper, sections 2, 3, 5.3.2).
Time runs from data at t=0 to noise at t=1. Equation numbers are those of arXiv 2403.03206v1.
"""
