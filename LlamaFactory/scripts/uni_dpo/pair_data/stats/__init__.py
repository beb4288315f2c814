"""What the method will do with a data set: one pass over the rows, then numbers, advice, a page and a picture.

`gather` keeps a few numbers a row, `measures` and `advice` turn them into one JSON-shaped report, `page` and
`picture` show that report and nothing else.
"""
