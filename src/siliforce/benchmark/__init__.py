"""Campaigns: models x materials x seeds x studies, scored against a reference, resumable.

config.py      what a campaign file may say
materials.py   frames, references and start structures of a material
graph.py       the jobs of a campaign, each named by a hash of what goes into it
tasks.py       what each job does
campaign.py    run the jobs, or go on with them
plan.py        what it will cost, and what it cost
scores.py      errors to scores between 0 and 1
ranking.py     means over seeds, intervals, ties, correlations, Pareto fronts
recommend.py   results and needs to a choice with reasons
"""
