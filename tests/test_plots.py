"""The pictures of a run: what lies on what."""

import json

from llamafactory.train.uni_dpo.record import plots


def test_no_legend_hides_another_or_the_weights(tmp_path, monkeypatch):
    """The weights' curves are on two axes, whose legends used to lie on each other."""
    names = ("loss", "rewards/margins", "rewards/accuracies", "uni_dpo/w_qual", "uni_dpo/w_perf", "uni_dpo/nll_weight")
    history = [{"step": step} | dict.fromkeys(names, 1 / step) for step in range(1, 60)]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    plots._plot_training(str(tmp_path))
    (figure,) = figures
    figure.canvas.draw()
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    boxes = [legend.get_window_extent() for legend in legends]
    assert len(boxes) == 4 and not any(one.overlaps(two) for one in boxes for two in boxes if one is not two)
    weights, nll = figure.axes[-2:]
    below = weights.get_legend()
    assert [text.get_text() for text in below.get_texts()] == ["w_qual", "w_perf", "c-NLL (right)"]
    assert not any(below.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)
    assert nll.get_legend() is None and figure.bbox.count_contains(below.get_window_extent().corners()) == 4
