"""The full evaluation of a model: per class, calibration, confusion. Sums over images, which add up over ranks."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from vitctl.errors import RunError
from vitctl.probing.metrics import ClassCounts
from vitctl.training.ranks import Ranks

BINS = 15  # of confidence, as in Guo et al. 2017
MOST = 2048  # classes, at most, for a confusion matrix


@dataclass(frozen=True)
class ClassScore:
    name: str
    pictures: int
    top1: float
    answers: int  # images of any class that were predicted as this one
    taken_for: str  # the class most often predicted for its misclassified images; empty if there are none


@dataclass(frozen=True)
class Report:
    pictures: int
    top1: float
    interval: tuple[float, float]  # 95%, Wilson's
    top5: float
    balanced: float | None  # mean accuracy of the classes that occur
    macro_f1: float | None  # both None where an image may have several correct classes
    loss: float
    calibration_error: float
    per_class: list[ClassScore]
    confusion: torch.Tensor | None  # int64 [K, K]: row the true class, column the predicted one
    wrong: list[int]  # rows of the split whose predicted class is not correct


class Tally:
    """`rows`: of the split. `sets` [M, K]: the correct classes of each of them, if there may be several. `loss`: that
    of the training, by which probabilities and the loss are computed."""

    def __init__(self, classes: int, rows: int, sets: torch.Tensor | None = None, loss: str = "softmax") -> None:
        self.classes, self.sets, self.loss = classes, sets, loss
        self.wrong = torch.zeros(rows, dtype=torch.uint8)
        self.sums = torch.zeros(4, dtype=torch.float64)  # images, loss, top-1, top-5
        self.bins = torch.zeros(3, BINS, dtype=torch.float64)  # images, confidence, correct
        self.of_class = torch.zeros(3, classes, dtype=torch.float64)  # images, correct, predictions
        self.confusion = torch.zeros(classes, classes, dtype=torch.float64) if classes <= MOST else None

    def add(self, logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> None:
        """Logits [B, K]; labels int64 [B]; rows of the split int64 [B]."""
        logits, labels, rows = logits.cpu().double(), labels.cpu(), rows.cpu()
        check_finite_logits(logits)
        right = F.one_hot(labels.clamp(min=0), self.classes).bool() if self.sets is None else self.sets[rows]
        known = right.any(1)
        logits, labels, right = logits[known], labels[known], right[known]
        if self.loss == "sigmoid":
            log_probs = F.logsigmoid(logits)
            loss = F.binary_cross_entropy_with_logits(logits, right.double(), reduction="none").sum(1)
        else:
            log_probs = logits.log_softmax(1)
            loss = -log_probs.masked_fill(~right, -math.inf).logsumexp(1)
        answers = logits.argmax(1)
        first = right.gather(1, answers[:, None])[:, 0]
        five = right.gather(1, logits.topk(min(5, self.classes), dim=1).indices).any(1) | first
        self.wrong[rows[known]] = (~first).byte()
        self.sums += torch.stack([known.sum(), loss.sum(), first.sum(), five.sum()])
        self.add_confidence(log_probs.exp().amax(1), first)
        self.add_classes(answers, labels, first)

    def add_confidence(self, confidence: torch.Tensor, right: torch.Tensor) -> None:
        place = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
        for line, values in zip(self.bins, (torch.ones_like(confidence), confidence, right.double()), strict=True):
            line.index_add_(0, place, values)

    def add_classes(self, answers: torch.Tensor, labels: torch.Tensor, right: torch.Tensor) -> None:
        one = torch.ones(len(answers), dtype=torch.float64)
        has = labels >= 0
        self.of_class[0].index_add_(0, labels[has], one[has])
        self.of_class[1].index_add_(0, labels[has], right.double()[has])
        self.of_class[2].index_add_(0, answers, one)
        if self.confusion is not None:
            self.confusion.view(-1).index_add_(0, labels[has] * self.classes + answers[has], one[has])

    def gather(self, ranks: Ranks) -> None:
        """The sums of all ranks."""
        if ranks.world == 1:
            return
        ranks.add_tensors(self.wrong)  # each row is of one rank
        for values in (self.sums, self.bins, self.of_class, self.confusion):
            if values is not None:
                values.copy_(
                    torch.tensor(ranks.sum(values.flatten().tolist()), dtype=torch.float64).reshape(values.shape)
                )

    def report(self, names: list[str]) -> Report:
        pictures, loss, right, five = self.sums.tolist()
        count, confidence, hits = self.bins
        counts = ClassCounts(*self.of_class.numpy()) if self.sets is None else None
        error = float((confidence - hits).abs().sum() / count.sum()) if pictures else math.nan
        return Report(
            pictures=int(pictures),
            top1=right / pictures,
            interval=wilson(right, pictures),
            top5=five / pictures,
            balanced=counts.balanced_accuracy if counts else None,
            macro_f1=counts.macro_f1 if counts else None,
            loss=loss / pictures,
            calibration_error=error,
            per_class=self.scores(names),
            confusion=None if self.confusion is None else self.confusion.long(),
            wrong=self.wrong.nonzero()[:, 0].tolist(),
        )

    def scores(self, names: list[str]) -> list[ClassScore]:
        scores = []
        for number, (pictures, right, answers) in enumerate(self.of_class.T.tolist()):
            if pictures:
                worst = self.most_common_mistake(number, names)
                scores.append(ClassScore(names[number], int(pictures), right / pictures, int(answers), worst))
        return scores

    def most_common_mistake(self, number: int, names: list[str]) -> str:
        if self.confusion is None:
            return ""
        line = self.confusion[number].clone()
        line[number] = 0
        return names[int(line.argmax())] if line.any() else ""


def check_finite_logits(logits: torch.Tensor) -> None:
    """Logits that are not finite are an error, because argmax would map a NaN to some class."""
    broken = int((~torch.isfinite(logits)).any(1).sum())
    if broken:
        raise RunError(f"the model's logits of {broken} of {len(logits)} images are not finite")


def wilson(right: float, pictures: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95% interval of a share; it stays between 0 and 1."""
    share = right / pictures
    middle = share + z * z / (2 * pictures)
    reach = z * math.sqrt(share * (1 - share) / pictures + z * z / (4 * pictures * pictures))
    whole = 1 + z * z / pictures
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)
