"""The published numbers of Qwen2-VL-2B: Uni-DPO (arXiv 2506.10054), radar chart of the poster.

"~" marks what was measured in the picture, good to 3 % of the axis; the others are printed there. Its MMBench does not
say which language; it stands beside the English one.
"""

MODELS = ("base", "DPO", "SimPO", "Uni-DPO")
NOTE = (
    "paper: Qwen2-VL-2B, read off the poster's radar chart (arXiv 2506.10054); ~ measured in the picture, "
    "+-3 % of the axis; its MMBench, of unnamed language, is beside MMBench_DEV_EN"
)
NUMBERS = {
    "ChartQA_TEST": ("~5.2", "~6.5", "11.7", "13.8"),
    "OCRBench": ("~669", "677", "~635", "709"),
    "TextVQA_VAL": ("~50.3", "~52.8", "60.6", "73.2"),
    "POPE": ("~79.0", "80.4", "~78.1", "86.0"),
    "MME": ("~1745", "~1800", "1813", "1905"),
    "MMBench_DEV_EN": ("~50.1", "~43.7", "54.4", "63.8"),
    "SEEDBench_IMG": ("~54.1", "~50.8", "59.6", "70.8"),
    "ScienceQA_TEST": ("~65.5", "~62.9", "66.8", "68.1"),
    "InfoVQA_VAL": ("~37.9", "~39.8", "41.5", "45.3"),
    "RealWorldQA": ("~53.9", "54.8", "~54.0", "55.3"),
}
