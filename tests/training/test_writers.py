import csv
import json

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from fluxseg.training.writers import RunLog, format_epoch, write_history

ROW = {
    "epoch": 16, "step": 320, "seconds": 1.5, "learning_rate": 1e-4, "train_loss": 0.2254,
    "train_accuracy": 0.88, "train_macro_iou": 0.6897, "train_neuron_iou": 0.425,
    "val_loss": 0.2199, "val_accuracy": 0.8873, "val_macro_iou": 0.6954, "val_neuron_iou": None,
}  # fmt: skip


def test_the_line_has_the_form_of_the_reference_protocol():
    assert format_epoch(ROW) == (
        "Epoch 16: TrL=0.2254, TrA=0.8800, TrMacroIoU=0.6897, TrNeuronIoU=0.4250, "
        "VL=0.2199, VA=0.8873, VMacroIoU=0.6954, VNeuronIoU=n/a"
    )


def test_people_read_the_epoch_and_its_scores():
    known = {**ROW, "val_neuron_iou": 0.616}
    line = "epoch 16/20  loss 0.23  neuron IoU train 0.42, val 0.62"
    assert format_epoch(known, 20) == line
    assert format_epoch(ROW, 20) == "epoch 16/20  loss 0.23  neuron IoU train 0.42"
    assert format_epoch({**ROW, "test_loss": 0.3}, 20).startswith("Epoch 16: TrL=0.2254, ")


def test_history_is_written_as_json_lines_and_csv(tmp_path):
    write_history(tmp_path, [ROW, {**ROW, "epoch": 17}])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [ROW, {**ROW, "epoch": 17}]
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["16", "17"]
    assert rows[0]["val_neuron_iou"] == ""
    write_history(tmp_path, [])
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def read_events(folder):
    """Read event files by their framing: length, checksum, content, checksum."""
    assert RecordWriter is not None
    events = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_tensorboard_gets_every_figure(tmp_path):
    log = RunLog(tmp_path, [], 0, writes=True)
    log.write_step(1, {"loss": 0.5})
    log.write_epoch([ROW], 20)
    log.close()
    found = {
        value.tag: (event.step, round(value.simple_value, 4))
        for event in read_events(tmp_path / "tensorboard")
        for value in event.summary.value
    }
    assert found["step/loss"] == (1, 0.5)
    assert found["macro_iou/train"] == (320, 0.6897)
    assert found["neuron_iou/train"] == (320, 0.425)
    assert found["accuracy/val"] == (320, 0.8873)
    assert "neuron_iou/val" not in found
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == ROW


def test_what_an_interrupted_run_wrote_beyond_its_checkpoint_is_hidden(tmp_path):
    log = RunLog(tmp_path, [ROW], 320, writes=True)
    log.write_step(321, {"loss": 0.5})
    log.close()
    (start,) = [
        event
        for event in read_events(tmp_path / "tensorboard")
        if event.session_log.status == SessionLog.START
    ]
    assert start.step == 321
