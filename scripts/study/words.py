"""What the report says around its numbers, in both languages."""

from typing import NamedTuple


class Words(NamedTuple):
    """The texts of one language; `{...}` are filled in by `report.py` and `tables.py`."""

    title: str
    other: str
    made: str
    no_answer: str
    main: str
    main_text: str
    method: str
    rate: str
    benchmarks: str
    against: str
    untuned: str
    quality: str
    tuning: str
    tuning_text: str
    ablation: str
    ablation_text: str
    variant: str
    ablated_published: str
    published_text: str
    when: str
    when_text: str
    condition: str
    labels: str
    labels_text: str
    sweep: str
    sweep_text: str
    option: str
    value: str
    course: str
    course_text: str
    epoch: str
    correlation: str
    fitted: str
    unfitted: str
    repeat: str
    repeat_text: str
    missing: str
    full: str
    diverged: str


ENGLISH = Words(
    title="Does Uni-DPO win, by how much, and which part does it",
    other="[中文](RESULTS_zh.md)",
    made=(
        "Made by `python scripts/study.py report` from [{raw}]({raw}): {cells} training"
        " runs and measurements, {hours} process-hours in all (start checkpoints not counted) on {cores} cores and"
        " {gpus} GPUs; {seeds} seeds; {date}. Versions: {versions}."
    ),
    no_answer="(The findings in words were written for other raw results and are left out.)",
    main="The methods, each at its best",
    main_text=(
        "Mean over seeds of VLMEvalKit's four benchmarks of test scenes (per cent), with Student's 95 % interval;"
        " differences are paired by seed. A star, here and below, means a p value below 0.05 by Holm's method for all"
        " differences of a table (in the sweeps: of an option). Seeds {seeds} also tuned, on other scenes; the column"
        " `other seeds` is without them. `quality` is the"
        " rule's mean score, 0 to 10, of answers to other test questions, descriptions included."
    ),
    method="method",
    rate="learning rate, beta",
    benchmarks="benchmarks",
    against="against {name}",
    untuned="other seeds",
    quality="quality",
    tuning="How they were tuned",
    tuning_text=(
        "Accuracy in our own exam on validation scenes (per cent; mean of seeds {seeds}) at every point of the grid,"
        " which is the same for every method. The best point, in bold, was taken."
    ),
    ablation="What each term earns",
    ablation_text=(
        "Tuned Uni-DPO without one of its parts. Nothing was tuned again, which favours the whole: a loss here bounds"
        " what a part earns from above."
    ),
    variant="variant",
    ablated_published="The same with the published beta",
    published_text=(
        "Uni-DPO with beta 2.0 as published, whole and without one of its parts: where tuning prefers a smaller beta,"
        " beta * m stays far below tau_ref, and w_perf has nothing to do."
    ),
    when="When it helps",
    when_text=(
        "Tuned methods on other preference data: benchmarks' mean, and differences paired by seed. Nothing was tuned"
        " again. DPO sees no scores, so conditions that change scores only leave it as it was."
    ),
    condition="data",
    labels="Where scores know better than labels",
    labels_text=(
        "Tuned Uni-DPO where 35 % of the labels were exchanged and the scores are the rule's own: without the quality"
        " weight (eta 0), with the tuned one, and with steeper ones."
    ),
    sweep="One option at a time",
    sweep_text=(
        "Benchmarks' mean over {seeds} seeds, and the difference to the tuned value. tau_good is swept at lambda 0.3,"
        " where the term is strong enough to show, against 8 at that lambda."
    ),
    option="option",
    value="value",
    course="What happens over four epochs",
    course_text=(
        "Tuned methods, four epochs, {seeds} seeds: accuracy in our exam on validation scenes after each epoch; for"
        " Uni-DPO the rank correlation of score margin and reward margin in the last epoch, and the mean w_perf of"
        " pairs whose reward margin is above and below zero. In the picture log-probs of `dpo` are sums, of all others"
        " means over tokens."
    ),
    epoch="epoch {number}",
    correlation="Spearman",
    fitted="w_perf, margin > 0",
    unfitted="w_perf, margin <= 0",
    repeat="Repeat it",
    repeat_text=(
        "    bash examples/uni_dpo/study.sh                     # everything, resumable\n"
        "    bash examples/uni_dpo/study.sh --repeat uni_dpo    # one cell, compared with the interval above\n"
        "    .venv/bin/python scripts/study.py report           # this file from the raw results\n"
    ),
    missing="(Not run.)",
    full="tuned Uni-DPO",
    diverged="{number} runs ended in numbers that are not finite and count as 0: {keys}.",
)

CHINESE = Words(
    title="Uni-DPO 是否更好、好多少、靠哪一部分",
    other="[English](RESULTS.md)",
    made=(
        "由 `python scripts/study.py report` 从 [{raw}]({raw}) 生成："
        "{cells} 次训练与测量，"
        "共 {hours} 进程小时（不含起始检查点），{cores} 个 CPU 核、{gpus} 个 GPU；"
        "{seeds} 个种子；{date}。版本：{versions}。"
    ),
    no_answer="（文字结论是为另一份原始结果写的，此处略去。）",
    main="各方法的最佳设置",
    main_text=(
        "VLMEvalKit 四个测试集（百分比）对种子的平均值及 Student 95 % 区间；差按种子配对。"
        "此处及下文的星号表示该表所有差（扫描中为该选项的差）经 Holm 校正后 p 小于 0.05。"
        "种子 {seeds} 也用于调参（用的是别的场景），“其他种子”一列不含它们。"
        "`quality` 是规则对另一批测试问题（含描述）的答案打的平均分，0 到 10。"
    ),
    method="方法",
    rate="学习率、beta",
    benchmarks="测试集",
    against="相对 {name}",
    untuned="其他种子",
    quality="quality",
    tuning="如何调参",
    tuning_text="验证场景自测准确率（百分比，种子 {seeds} 的平均），网格对所有方法相同；取最佳点（粗体）。",
    ablation="每一项的贡献",
    ablation_text="调好的 Uni-DPO 去掉一个部分，其余不再调参，这有利于完整方法：此处的损失是该部分贡献的上界。",
    variant="变体",
    ablated_published="论文的 beta 下的同一实验",
    published_text=(
        "beta 2.0（论文值）的 Uni-DPO，完整的和去掉一个部分的："
        "调参若选了更小的 beta，beta * m 远低于 tau_ref，w_perf 就不起作用。"
    ),
    when="何时有用",
    when_text=(
        "调好的方法用于其他偏好数据：测试集平均值及按种子配对的差，不再调参。"
        "DPO 不看分数，只改分数的条件对它没有影响。"
    ),
    condition="数据",
    labels="当分数比标签更可靠",
    labels_text=(
        "35 % 的标签被对调、分数为规则真值时的调好的 Uni-DPO：不用质量权重（eta 0）、调好的取值、更陡的取值。"
    ),
    sweep="逐个扫描超参数",
    sweep_text=(
        "{seeds} 个种子的测试集平均值，以及与调好的 Uni-DPO 的差。tau_good 在 lambda 0.3 下扫描，此时该项才足够强。"
    ),
    option="选项",
    value="取值",
    course="四个 epoch 中发生了什么",
    course_text=(
        "调好的方法训练四个 epoch，{seeds} 个种子：每个 epoch 后验证场景自测的准确率；"
        "Uni-DPO 另列最后一个 epoch 中分数差与奖励差的秩相关，以及奖励差大于、不大于零的样本对的平均 w_perf。"
        "图中 `dpo` 的对数概率是总和，其余是按 token 的平均。"
    ),
    epoch="epoch {number}",
    correlation="Spearman",
    fitted="w_perf，差 > 0",
    unfitted="w_perf，差 <= 0",
    repeat="重复实验",
    repeat_text=(
        "    bash examples/uni_dpo/study.sh                     # 全部，可续跑\n"
        "    bash examples/uni_dpo/study.sh --repeat uni_dpo    # 重做一个单元，与上面的区间比较\n"
        "    .venv/bin/python scripts/study.py report           # 由原始结果重新生成本文件\n"
    ),
    missing="（未运行。）",
    full="调好的 Uni-DPO",
    diverged="{number} 次训练数值发散，按 0 计：{keys}。",
)
