"""Studies: one configuration trained along axes under equal controls, sampled, scored, and ranked.

`plan` says which cells there are, `cell` trains and scores one of them, `launch` runs them in processes of their own,
`table` gathers what they left, `standing` and `plot` read that table.
"""
