"""A randomised model as two functions that repeat: its decision at an image, and what an attacker may ask of it."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.core import randomness
from bench.core.seeding import derive, preserved_generators, seed_everything

VOTES: Final = 100  # draws behind a decision: a share of votes is off by 5 points (one standard error) at most
DRAWS: Final = 20  # draws per gradient, as in AutoAttack's "rand"
OTHER_DRAWS: Final = 1  # added to the seed of the decisions
CLEAR: Final = 0.2  # of votes; two standard errors of a difference at a tie
DECIDED: Final = 1.0  # log odds (73:27) beyond which an attack stops: two standard errors of 20 draws away from a tie


class RandomisedModel(nn.Module):
    """A network whose answers are random, judged by votes and attacked in expectation over its draws.

    In eval mode it is two things. Without gradients, its *decision*: the logarithm of the shares of votes in `votes`
    passes of copies of the one image. Python's, numpy's and torch's generators are seeded by the image's content, so
    that the decision is a function of the image: it repeats, alone or in any batch. With gradients, its *estimate*: the
    logarithm of the mean probability over `draws` fresh passes, so that every attack averages its gradients over draws
    (expectation over transformation: Athalye et al. 2018, section 3.3; of the probabilities: Salman et al. 2019,
    'Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers', eq. (4)). An attacker never sees the
    draws of the decision. In train mode it is the network itself.

    Attributes:
        network: images (B, C, H, W) to logits (B, K), differently at each call.
        votes: passes per decision.
        draws: passes per estimate.
        seed: of the decisions.
    """

    def __init__(self, network: nn.Module, votes: int = VOTES, draws: int = DRAWS, seed: int = 0) -> None:
        super().__init__()
        self.network, self.votes, self.draws, self.seed = network, votes, draws, seed
        self._estimates = 0
        self.training = network.training

    def restart(self) -> None:
        """Number the draws of estimates from 0 again: what an evaluation draws does not depend on earlier ones."""
        self._estimates = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the estimate where gradients are asked for, else the decision, (B, K); in train mode logits."""
        if self.training:
            logits: Tensor = self.network(x)
            return logits
        return self.estimate(x) if torch.is_grad_enabled() else self.decide(x)

    def estimate(self, x: Tensor) -> Tensor:
        """Return the logarithm of the mean probability over `draws` fresh passes, (B, K)."""
        self._estimates += 1
        with preserved_generators():
            seed_everything(derive("estimate", self._estimates))
            return mean_log_probability(self.network(x.repeat(self.draws, *[1] * (x.ndim - 1))), self.draws)

    def decide(self, x: Tensor) -> Tensor:
        """Return the logarithm of the shares of votes, (B, K); the mean probability parts those that are equal."""
        counts, probability = self.vote(x, self.votes, self.seed)
        return ((counts + probability) / (self.votes + 1)).clamp_min(1e-12).log()

    @torch.no_grad()
    def vote(self, x: Tensor, votes: int, seed: int, at_once: int = 1000) -> tuple[Tensor, Tensor]:
        """Return how many of some passes over copies of each image decide for each class, and the mean probabilities.

        Args:
            x: images (B, C, H, W).
            votes: passes per image.
            seed: of the draws, which belong to the image.
            at_once: copies per pass.

        Returns:
            (B, K) each.
        """
        rows = []
        with preserved_generators():
            for image, key in zip(x, randomness.example_keys(x, seed).tolist(), strict=True):
                seed_everything(key & (2**63 - 1))
                parts = [self.network(image.expand(n, *image.shape).clone()) for n in _portions(votes, at_once)]
                rows.append(torch.cat(parts))
        logits = torch.stack(rows) if rows else self.network(x)[:, None]
        winners = torch.zeros_like(logits).scatter_(2, logits.argmax(2, keepdim=True), 1.0)
        return winners.sum(1), logits.softmax(2).mean(1)

    def clearly_wrong(self, x: Tensor, y: Tensor) -> Tensor:
        """Return where a vote with other draws gives another class a fifth of the votes more than the label, bool (B,).

        Args:
            x: images (B, C, H, W).
            y: labels (B,).
        """
        counts, _ = self.vote(x, self.votes, self.seed + OTHER_DRAWS)
        others = counts.scatter(1, y[:, None], -1.0).amax(1)
        return others - counts.gather(1, y[:, None])[:, 0] >= CLEAR * self.votes

    def held(self, draws: int) -> HeldDraws:
        """Return the network with its draws held: the same ones at every call, which an attacker then knows.

        Args:
            draws: how many are averaged.
        """
        return HeldDraws(self.network, draws).train(self.training)


class HeldDraws(nn.Module):
    """The mean probability of a randomised network over draws that are the same at every call of the same shape."""

    def __init__(self, network: nn.Module, draws: int) -> None:
        super().__init__()
        self.network, self.draws = network, draws

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithm of the mean probability, (B, K), of images x (B, C, H, W)."""
        with preserved_generators():
            seed_everything(derive("held"))
            return mean_log_probability(self.network(x.repeat(self.draws, *[1] * (x.ndim - 1))), self.draws)


def mean_log_probability(logits: Tensor, draws: int) -> Tensor:
    """Return log of the mean over draws of softmax, (B, K), of logits (draws · B, K), draw by draw."""
    each = logits.log_softmax(1).view(draws, -1, logits.shape[1])
    return each.logsumexp(0) - torch.log(torch.tensor(float(draws), dtype=logits.dtype, device=logits.device))


def _portions(total: int, largest: int) -> list[int]:
    return [min(largest, total - start) for start in range(0, total, largest)]
