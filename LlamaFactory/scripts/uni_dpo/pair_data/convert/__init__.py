"""From other people's preference data to our pairs.

`reading` opens sources, `shapes` recognises what a row is, `preferences` and `answers` turn it into a `Question`,
`pairing` chooses pairs of its answers, `pictures` puts its images where training finds them, `run` writes.
"""
