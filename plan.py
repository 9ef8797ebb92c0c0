"""The round's plan: which questions, which views, who generates and who scores which group. Phase A of `train.py`.

Every rank holds the same plan and decodes only what its own engine will read.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch.distributed as dist

from data.dataset import QuestionCursor
from data.reader import Reader
from data.video import ClipError
from episode import Prompt, Question, View
from methods import Look, Method, MethodSettings
from model import EncodedPrompt, Policy
from parallel import gather_objects
from transforms import IDENTITY, TRANSFORMS, visit_rng


@dataclass(frozen=True)
class Planned:
    """One group of the round before it is sampled."""

    question: Question
    """As asked on this branch: its `gold` is the look's, where that is another known one."""
    epoch: int
    """Pass over the file that this visit belongs to."""
    branch: int
    """0 original, 1 second view."""
    transform: str
    """Name in transforms.TRANSFORMS."""
    mini_batch: int
    """Optimizer step of the round that trains it."""
    trained: bool
    """False: generated for rewards only."""
    rollouts: int
    """Completions to sample."""
    greedy: bool
    seed: int
    """Of its request to the engine."""

    @property
    def clip(self) -> str:
        """Name of its pixels: a transform may be drawn anew at each visit, and each branch shows another."""
        return f"{self.epoch}/{self.question.id}/{self.branch}"


@dataclass(frozen=True)
class Planner:
    """Turns visits of questions into plans; the same settings on every rank."""

    method: Method
    settings: MethodSettings
    mini_batch_questions: int
    seed: int

    def plan(self, visits: list[tuple[int, Question]]) -> list[Planned]:
        """(epoch, question) visits -> groups: the trained ones first, each part by mini-batch, branch, question.

        In that order groups are dealt to engines in turn, so that each generates as many as the next of every
        mini-batch. Who trains them is settled once their lengths are known (`update.pack_mini_batches`).
        """
        plan = []
        for at, (epoch, question) in enumerate(visits):
            looks = [Look(IDENTITY, self.settings.rollouts, trained=True)]
            if second := self.method.second(question, visit_rng(self.seed, epoch, question.id), self.settings):
                looks.append(second)
            for branch, look in enumerate(looks):
                seed = visit_rng(self.seed, epoch, f"{question.id}/rollouts of branch {branch}").getrandbits(31)
                mini_batch = at // self.mini_batch_questions
                plan.append(
                    Planned(
                        question if look.gold is None else replace(question, gold=look.gold),
                        epoch,
                        branch,
                        look.transform,
                        mini_batch,
                        look.trained,
                        look.rollouts,
                        look.greedy,
                        seed,
                    )
                )
        return sorted(plan, key=lambda item: (not item.trained, item.mini_batch, item.branch))


def draw(
    planner: Planner,
    cursor: QuestionCursor,
    questions: int,
    reader: Reader,
    policy: Policy,
    processor,
    tensor_parallel: int,
) -> tuple[list[Planned], dict[int, tuple[Prompt, EncodedPrompt]], dict[str, str]]:
    """-> the plan, this engine's prompts by their index in it, and newly quarantined question ids with the reason.

    A clip that cannot be read, or is too long, is quarantined and the cursor's next question takes its place. Ranks
    agree on that before anyone generates, so their plans stay alike. All ranks take part.
    """
    visits = cursor.take(questions)
    views: dict[str, Future] = {}
    quarantined: dict[str, str] = {}
    while True:
        plan = planner.plan(visits)
        built, failures = {}, {}
        mine = engine_groups(len(plan), tensor_parallel)
        for i in mine:  # all at once, both branches of a question together: the workers share them out
            question = plan[i].question
            if question.id not in views:
                views[question.id] = reader.clips.submit(question)
        for i in mine:
            item = plan[i]
            try:
                view = views[item.question.id].result()
                prompt = reader.render(item.question, transformed(view, item))
                encoded = policy.encode(processor, prompt)
                reader.check_length(len(encoded.ids))
            except ClipError as error:
                failures[item.question.id] = str(error)
                continue
            built[i] = (prompt, encoded)
        failed = {key: reason for part in gather_objects(failures) for key, reason in part.items()}
        if not failed:
            return plan, built, quarantined
        quarantined |= failed
        for question_id, reason in failed.items():
            cursor.quarantine(question_id, reason)
        visits = [visit if visit[1].id not in failed else cursor.take(1)[0] for visit in visits]


def ahead(planner: Planner, cursor: QuestionCursor, questions: int, tensor_parallel: int) -> list[Question]:
    """Questions that this rank's engine will read in the next round, unless one is quarantined before."""
    plan = planner.plan(cursor.peek(questions))
    return [plan[i].question for i in engine_groups(len(plan), tensor_parallel)]


def transformed(view: View | None, item: Planned) -> View | None:
    """The planned look at a clip: same frames, same ascending timestamps, another order or orientation."""
    if view is None:
        return None
    frames = TRANSFORMS[item.transform](view.frames, visit_rng(item.seed, item.epoch, item.question.id))
    return replace(view, frames=frames, transform=item.transform)


def engine_groups(groups: int, tensor_parallel: int) -> range:
    """Indices of the groups this rank's engine generates."""
    return range(dist.get_rank() // tensor_parallel, groups, dist.get_world_size() // tensor_parallel)


def owned_groups(groups: int, tensor_parallel: int) -> range:
    """Indices of the groups this rank scores: its engine's, dealt out over the engine's ranks."""
    return engine_groups(groups, tensor_parallel)[dist.get_rank() % tensor_parallel :: tensor_parallel]
