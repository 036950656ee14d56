"""The report of alignments: one run or several, their figures by update and by cost, paths, and vectors."""
