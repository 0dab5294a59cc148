import io
import sys
import time

import torch
from accelerate import Accelerator

from transformers_samdetr.training import display
from transformers_samdetr.training.display import Display, stage

LOSSES = {"loss": 9.5, "loss_ce": 1.0, "loss_bbox": 2.0, "loss_giou": 3.0}
LOSSES |= {"loss_ce_0": 0.5, "loss_bbox_0": 1.0, "loss_giou_0": 1.5, "dn_loss_ce": 0.25, "dn_loss_ce_0": 0.25}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(stream, every=2, steps=4):
    asked = []
    shown = Display(Accelerator(), epochs=3, steps=steps, every=every, stream=stream)
    shown.begin_epoch(1, 0)
    for step in range(1, steps + 1):
        shown.step(step, 8, 1e-4, lambda: asked.append(1) or LOSSES)
    shown.end_epoch()
    list(shown.evaluation(torch.utils.data.DataLoader(range(3))))
    shown.console.print("epoch done")
    return stream.getvalue(), len(asked)


def test_lines_of_text_without_a_terminal():
    text, asked = show(io.StringIO())
    lines = text.splitlines()
    assert len(lines) == 3 and asked == 2, "losses are read only where they are shown: that waits for the device"
    for part in ("epoch 2/3", "step 2/4", "ETA 0:00:", "images/s", "lr 0.0001", "memory", "loss 9.500 (0.500 of it"):
        assert part in lines[0], part
    assert "ce 1.000  bbox 2.000  giou 3.000  by layer 3.00 6.00" in lines[0]
    assert "\x1b" not in text


def test_bars_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(display, "REFRESH_SECONDS", 1000)
    text, asked = show(Terminal())
    assert "Epoch 2/3" in text and "Evaluation 2/3" in text and "images/s" in text and "giou" in text
    assert asked == 1, "losses are read no more often than they are shown"


def test_other_processes_say_nothing(monkeypatch):
    monkeypatch.setattr(Accelerator, "is_main_process", property(lambda self: False))
    assert show(io.StringIO()) == ("", 0)


def test_what_takes_long_before_the_first_step_is_said(monkeypatch, capsys):
    for shown, seconds in ((True, 60), (False, 0), (True, 0)):
        with stage(f"Reading {shown} {seconds}", shown, seconds):
            time.sleep(0.2)
    assert capsys.readouterr().out == "Reading True 0\n"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal())
    with stage("Reading [1]"):
        pass
    assert "Reading [1]" in sys.stdout.getvalue()


def test_an_epoch_shorter_than_the_interval_prints_nothing_but_its_end():
    assert show(io.StringIO(), every=50)[0] == "epoch done\n"
