"""CRPO and its baselines, top to bottom: draw -> generate -> score -> update -> sync, one round after another.

    python train.py --preset toy                                     # one process
    torchrun --nproc_per_node 2 train.py --preset toy                # FSDP2 over two
    torchrun --nnodes 4 --nproc_per_node 8 train.py --model Qwen3-VL-8B --train-file rows.jsonl --data-root videos

A round is one generation and one line of metrics.jsonl; an update is one optimizer step. Phases A..I carry the names of
the `time/*` metrics. N questions, K branches, G rollouts.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import os
import pathlib
import resource
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import transformers

import checkpoint
import config as settings
import guards
import parallel
import run_folder
import samples
import update
from captions import judge_of
from checkpoint import Saved
from config import Config
from data.clips import Clips
from data.dataset import NoQuestionLeft, QuestionCursor, load_questions, questions_fingerprint, report_bad_rows
from data.reader import Reader, open_clips
from data.video import ClipError
from episode import Group, Question
from eval.answer import before_after, check_pairs, evaluate, one_line, report_metrics
from exits import Exit, Halt
from flops import Cost, Work, peak_flops
from methods import METHODS, MethodSettings, pay_scripted
from metrics import Accumulator, MetricLog, describe, progress_line, read_metrics
from model import EncodedPrompt, fingerprint, load_policy, load_processor, resolve_checkpoint, trainer_names
from parallel import gather_objects, is_main, print_main, together
from phases import Phases
from pictures import curves
from plan import Planner, ahead, draw, owned_groups, transformed
from rollout import Engine, EngineSettings, Request, Sampling, build_engine, checksum, engine_ranks
from score import Scorer, score
from transforms import HORIZONTAL_FLIP, TEMPORAL_REVERSE
from verifiers import verify

NO_TRAIN_FILE = (
    "--train-file is missing: make the paper's with `python -m data.sources`, `python router.py` and "
    "`python -m data.filter` (see README), give any file in Video-R1's row format, or try --preset toy"
)


def main() -> None:
    config = settings.parse()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # read before the engine: vLLM overwrites it
    # The watchdog speaks first, with the phase's name.
    device = parallel.start(timeout_minutes=config.phase_timeout + 10 if config.phase_timeout else 24 * 60)
    if config.tensor_parallel == 0:
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        ranks = math.gcd(*gather_objects(engine_ranks(gpu, local_ranks)))  # the same where nodes differ
        config = dataclasses.replace(config, tensor_parallel=ranks)
    try:
        inputs = prepare(config, local_ranks)
    except (ValueError, OSError) as error:
        # The user's mistakes end here, in one line; any later error is a bug and a traceback.
        if is_main():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(Exit.MISTAKE)
    sys.excepthook = parallel.die_at_once
    code = Exit.DONE
    try:
        train(config, inputs, device).clips.close()
    except (NoQuestionLeft, Halt) as error:  # what the rows hold shows only once they are read
        code = error.code if isinstance(error, Halt) else Exit.MISTAKE
        if is_main():
            print(f"{'stopped' if code == Exit.STOPPED else 'error'}: {error}", file=sys.stderr, flush=True)
    parallel.leave(code)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run reads, checked."""

    train_questions: list[Question]
    eval_questions: list[Question]
    bad_rows: list
    folder: str
    """Of the model that the run starts from."""
    model: str
    """Its fingerprint."""
    saved: Saved | None
    """The checkpoint to go on from."""


def prepare(config: Config, local_ranks: int) -> Inputs:
    """Check settings, data, model and checkpoint, and take the run's folder. Raises ValueError or OSError, one line
    each, on every rank."""
    settings.check(config, dist.get_world_size(), local_ranks)
    if config.method not in METHODS:
        raise ValueError(f"--method {config.method}: must be one of {', '.join(METHODS)}")
    if config.keep_best:
        try:
            describe(config.keep_best)
        except KeyError as error:
            raise ValueError(f"--keep-best {config.keep_best}: {error.args[0]}") from error
    judge_of(config.caption_judge)  # its faults now
    run_folder.prepare(config)
    data, folder = (), ""

    def read() -> tuple[str, list[str]]:
        nonlocal data, folder
        data, folder = load_data(config), resolve_model(config)
        return fingerprint(folder), [questions_fingerprint(questions) for questions in data[:2]]

    seen = together(read)
    for rank, other in enumerate(seen):
        if other != seen[0]:  # each would train another model, or answer another question under the same number
            raise ValueError(
                f"all ranks must read the same model and rows: rank 0 has {seen[0]}, rank {rank} has {other} "
                f"(fingerprints of --model {config.model}, and of the usable rows to train on and to evaluate); look "
                "at that node's copies, and at which clips it sees"
            )
    model = seen[0][0]
    saved = run_folder.start_of(config, model)
    if saved:  # other questions are refused here, not after the engine's start
        QuestionCursor(data[0], config.seed).load_state_dict(saved.state["cursor"])
    together(lambda: is_main() and settings.save(config, config.run_dir))
    return Inputs(*data, folder, model, saved)


@dataclasses.dataclass(frozen=True)
class Live:
    """What outlasts a run, and serves the next one of this process with the same checkpoint, engine and clip flags."""

    engine: Engine
    clips: Clips
    starts: dict[tuple[Question, ...], dict] = dataclasses.field(default_factory=dict)
    """Questions -> the start's report on them: the same for every run."""


def train(config: Config, inputs: Inputs, device: torch.device, live: Live | None = None) -> Live:
    """A whole run; all ranks take part. `live`: what an earlier run left. Raises Halt where it ends before its time."""
    with Phases(60 * config.phase_timeout) as phases:
        return rounds(config, inputs, device, phases, live)


def rounds(config: Config, inputs: Inputs, device: torch.device, phases: Phases, live: Live | None) -> Live:
    """`train`, top to bottom."""
    started = time.time()
    folder, train_questions, eval_questions = inputs.folder, inputs.train_questions, inputs.eval_questions
    dtype = getattr(torch, config.dtype)
    processor = load_processor(folder)

    # ---------------------------------------------------------------------------------------------------------------
    # Engine first: it measures the free memory of its GPU when it starts (all ranks)
    policy = load_policy(
        folder, temperature=config.temperature, gradient_checkpointing=config.gradient_checkpointing
    ).train()
    if live is None:
        live = Live(build_engine(EngineSettings.of(config), folder, policy.banned_ids, device), open_clips(config))
        live.engine.sleep()
    engine = live.engine

    # ---------------------------------------------------------------------------------------------------------------
    # Policy, frozen reference, optimizer (all ranks)
    cost = Cost.of(policy)
    mesh = dict(shard_ranks=config.shard_ranks)
    parallel.shard(policy, policy.layers(), policy.frozen_modules(), device, dtype, **mesh)
    reference = None
    if config.kl_coef > 0:
        reference = load_policy(folder, temperature=config.temperature).requires_grad_(False)
        parallel.shard(reference, reference.layers(), reference.frozen_modules(), device, dtype, **mesh)
    trainable = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = parallel.ShardAdamW(
        trainable, lr=config.lr, betas=(0.9, 0.999), weight_decay=config.weight_decay, fused=True
    )

    def parameters(frozen: bool = True):
        """Every weight, whole, under its Hugging Face name (a collective: all ranks exhaust it)."""
        return trainer_names(parallel.gather_parameters(policy, dtype, frozen=frozen))

    def sync(check: bool, frozen: bool = engine.forgets) -> None:
        """Trainer -> engine, which is asleep before and ready to generate after (all ranks). `frozen`: the frozen
        tower too, which an engine that does not forget keeps from the first sync."""
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what the trainer's allocator holds unused is memory the engine wakes into
        engine.wake("weights")
        engine.sync(parameters(frozen))
        if check:
            compare_copies(parameters(), engine.checksums())
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the gather's copies
        engine.wake("kv_cache")

    # ---------------------------------------------------------------------------------------------------------------
    # Data position, resume, logs
    method, method_settings = METHODS[config.method], settings_of_method(config)
    if config.scripted_reward:
        method = dataclasses.replace(method, pay=pay_scripted)
    planner = Planner(method, method_settings, config.questions // config.updates, config.seed)
    scorer = Scorer(
        method,
        method_settings,
        functools.partial(
            verify,
            strict_match=config.strict_match,
            lenient_format=config.lenient_format,
            caption_judge=judge_of(config.caption_judge),
        ),
        config.std_scope,
    )
    reader = Reader(processor, config, live.clips)
    cursor = QuestionCursor(train_questions, config.seed)
    state = {
        "step": 0,
        "updates": 0,
        "rollouts_seen": 0,
        "failed_saves": 0,
        "wall_s": 0.0,
        "score": None,
        "before": None,
        "after": None,
        **guards.FRESH,
    }
    max_steps = config.max_steps or -(-len(train_questions) // config.questions)
    numbers = Accumulator()
    found = inputs.saved
    if found:
        checkpoint.load(found, policy, optimizer)
        cursor.load_state_dict(found.state["cursor"])
        state.update({name: found.state[name] for name in state})
    log = None
    if is_main():
        log = MetricLog(config.run_dir, append=bool(found))
        log.truncate_after(state["step"])
        with log.going_on():
            samples.truncate_after(config.run_dir, state["step"])
        list_bad_rows(config, inputs.bad_rows, cursor, {}, log)
    if state["step"] < max_steps:
        reader.clips.prefetch(ahead(planner, cursor, config.questions, config.tensor_parallel))
    # Resumed weights must get there; and it proves the way before the first round.
    sync(check=config.checksum_every > 0, frozen=True)

    def run_evaluation() -> dict | None:
        """Paired evaluation through the engine, which is awake (all ranks)."""
        if not eval_questions:
            return None
        return evaluate(
            engine,
            eval_questions,
            lambda question: reader.prompt(question, reader.clips.view(question)),
            max_tokens=config.max_completion_tokens,
            tensor_parallel=config.tensor_parallel,
        )

    def save(place: dict) -> bool:
        """Checkpoint of the rounds so far, the next one's questions from `place` on (all ranks). A full disk costs this
        checkpoint, not the run: the ones before stay."""
        phases.enter("save")
        whole = state | {
            "cursor": place,
            "wall_s": state["wall_s"] + time.time() - started,
            "settings": dataclasses.asdict(config),
            "model": inputs.model,
        }
        keep = dict(keep=config.keep_checkpoints, score=state["score"], score_of=config.keep_best)
        try:
            checkpoint.save(config.run_dir, state["step"], policy, optimizer, whole, **keep)
        except OSError as error:
            state["failed_saves"] += 1
            print_main(f"warning: no checkpoint of round {state['step']}, the ones before stay: {error}")
            return False
        return True

    if not found:
        with phases("eval"):
            asked = tuple(eval_questions)
            state["before"] = state["after"] = live.starts[asked] = live.starts.get(asked) or run_evaluation()
        if log:
            log.write(0, {"data/rollouts_seen": 0} | report_metrics(state["before"]))
        print_main("before:", one_line(state["before"]))

    # ---------------------------------------------------------------------------------------------------------------
    done_before = saved_step = state["step"]
    saved_at = time.monotonic()

    def stop(place: dict) -> None:
        """SIGTERM, heard before a round's update (all ranks): its questions, from `place` on, will be drawn again."""
        if saved_step < state["step"] and not save(place):
            raise Halt(Exit.DISK, f"SIGTERM after round {state['step']}, which could not be saved; free some space")
        raise Halt(Exit.STOPPED, f"SIGTERM; {state['step']} rounds are saved: start again to go on")

    for step in range(done_before + 1, max_steps + 1):
        phases.begin_round(step, functools.partial(stop, cursor.state_dict()))

        # A. draw: N questions, their clips and views (all ranks plan alike; each decodes what its engine will read)
        with phases("draw"):
            try:
                plan, built, quarantined = draw(
                    planner, cursor, config.questions, reader, policy, processor, config.tensor_parallel
                )
            except NoQuestionLeft:
                if log:
                    list_bad_rows(config, inputs.bad_rows, cursor, {}, log)
                raise
            if log and quarantined:
                list_bad_rows(config, inputs.bad_rows, cursor, quarantined, log)
        if step < max_steps:  # the next round's clips, behind all that follows
            reader.clips.prefetch(ahead(planner, cursor, config.questions, config.tensor_parallel))

        # B. generate: one request per group with n = G (the engine holds the GPU; its ranks work as one)
        with phases("generate"):
            mine = sorted(built)
            outputs = engine.generate(
                [
                    Request(
                        built[i][0],
                        sampling(config, plan[i].rollouts, plan[i].greedy),
                        plan[i].seed,
                        clip=plan[i].clip,
                    )
                    for i in mine
                ]
            )
            engine.sleep()
        tokens = sum(len(rollout.ids) for out in outputs for rollout in out.rollouts)
        numbers.add("rollout/tokens_per_s", tokens / phases.seconds["generate"])
        groups = {
            i: Group(plan[i].question, plan[i].branch, built[i][0], out.prompt_ids, out.rollouts, plan[i].trained)
            for i, out in zip(mine, outputs, strict=True)
        }
        for i in mine:
            if groups[i].prompt_ids != built[i][1].ids:
                raise RuntimeError(
                    f"round {step}, question {plan[i].question.id}: engine and trainer must read the same prompt; "
                    f"{len(groups[i].prompt_ids)} ids against {len(built[i][1].ids)}"
                )

        # C. score: verify, reward, advantage, once for the whole round (all ranks see all answers)
        with phases("score"):
            owned = owned_groups(len(plan), config.tensor_parallel)
            score(scorer, plan, groups, owned, numbers)

        # D. pack: mini-batches by question, both branches together, each dealt over all ranks by its groups' tokens
        with phases("pack"):
            mini_batches = update.pack_mini_batches(
                {i: (groups[i], built[i][1]) for i in mine},
                [
                    [i for i, item in enumerate(plan) if item.mini_batch == m and item.trained]
                    for m in range(config.updates)
                ],
                questions=config.questions // config.updates,
                tokens_per_pack=config.tokens_per_pack,
                device=device,
                numbers=numbers,
                mask_truncated=config.mask_truncated,
            )

        # E. old_ref: log-probs before the first update, and of the reference, where the objective needs them
        with phases("old_ref"):
            for packs in mini_batches:
                if config.updates > 1:
                    old = update.logps(policy, packs)
                    update.engine_gap(packs, old, numbers)
                    packs[:] = [dataclasses.replace(p, old_logps=v) for p, v in zip(packs, old, strict=True)]
                if reference is not None:
                    ref = update.logps(reference, packs)
                    packs[:] = [dataclasses.replace(p, ref_logps=v) for p, v in zip(packs, ref, strict=True)]
            if reference is not None:
                reference.reshard()  # a root stays gathered after a forward without a backward

        # F, G. update: Eq. 6, backward over packs, clip, optimizer step (the trainer holds the GPU; all ranks in step)
        with phases("update"):
            for packs in mini_batches:
                loss, policy_logps = update.backward(
                    policy,
                    packs,
                    clip_eps=config.clip_eps,
                    kl_coef=config.kl_coef,
                    numbers=numbers,
                    importance_cap=config.importance_cap,
                )
                if config.updates == 1:
                    update.engine_gap(packs, policy_logps, numbers)
                norm = torch.nn.utils.clip_grad_norm_(trainable, config.max_grad_norm).full_tensor()
                finite = guards.all_finite(loss, norm)
                guards.note_update(state, finite, config.max_skips, f"round {step} (gradient norm {norm.item()})")
                state["updates"] += 1
                lr = config.lr * update.lr_factor(
                    state["updates"], max_steps * config.updates, config.warmup_steps, config.lr_schedule
                )
                for group in optimizer.param_groups:
                    group["lr"] = lr
                if finite:
                    optimizer.step()
                optimizer.zero_grad()
                if is_main():  # all-reduced numbers count once
                    numbers.total("guard/skipped", not finite)
                    numbers.add("policy/grad_norm", norm)
                    numbers.add("policy/lr", lr)
                    numbers.add("policy/loss", 0.0)
                    numbers.add("policy/objective", 0.0)

        # H. sync: weights into the engine, its caches dropped, now and then every tensor compared (all ranks)
        with phases("sync"):
            sync(check=config.checksum_every > 0 and (step == 1 or step % config.checksum_every == 0))

        # I. log, evaluate, save
        state["step"] = step
        state["rollouts_seen"] += sum(item.rollouts for item in plan)
        with phases("log"):
            if config.samples_every and (step == 1 or step % config.samples_every == 0):
                indices, record = samples.collect(plan, groups, step % config.questions)
                if log:
                    try:
                        view = reader.clips.view(plan[indices[0]].question)
                    except ClipError as error:  # it could be read in this round; a busy disk is no reason to stop
                        print_main(f"no filmstrip of round {step}: {error}")
                        view = None
                    samples.write(
                        config.run_dir, step, record, [transformed(view, plan[i]) for i in indices if view], log
                    )
        last = step == max_steps
        report = None
        if last or (config.eval_every and step % config.eval_every == 0):
            with phases("eval"):
                report = run_evaluation()
        state["after"] = report or state["after"]
        if is_main():
            numbers.add("data/rollouts_seen", state["rollouts_seen"])
            numbers.add("data/epoch", config.repeat_data * (cursor.epoch + cursor.position / len(train_questions)))
            numbers.add("data/questions", config.questions)
            numbers.add("data/quarantined", len(cursor.quarantined))
            numbers.add("guard/failed_saves", state["failed_saves"])
            numbers.add("guard/write_errors", log.errors)
        numbers.max("memory/peak_gb", peak_memory_gb())
        phases.add_to(numbers)
        add_speed(numbers, phases, mini_batches, cost, passes=3 + (config.updates > 1) + (reference is not None))
        values = numbers.reduce() | report_metrics(report)
        if log:
            log.write(step, values)
        print_main(progress_line(step, max_steps, values))
        if report:
            print_main(f"round {step}:", one_line(report))
        state["score"] = values.get(config.keep_best)
        guards.note_gap(state, values, config.gap_limit, f"round {step}")
        due = config.save_minutes and time.monotonic() - saved_at > 60 * config.save_minutes
        if last or (config.save_every and step % config.save_every == 0) or any(gather_objects(due)):
            saved_at = time.monotonic()
            if save(cursor.state_dict()):
                saved_step = step
            elif last:
                raise Halt(Exit.DISK, "the last round is done and could not be saved; free some space and start again")

    # ---------------------------------------------------------------------------------------------------------------
    # The end: the gap after the last sync, export, pictures, summary (rank 0 writes; the gather needs all)
    phases.enter("finish")
    if state["step"] > done_before:
        measure_gap(config, engine, policy, groups[mine[0]], built[mine[0]][1], device, numbers)
        guards.note_gap(state, numbers.reduce(), limit=0, where="the end")
    if config.export:
        export_dir = os.path.join(config.run_dir, "export")
        try:
            checkpoint.export(export_dir, policy.hf.config, processor, policy.hf.generation_config, parameters())
        except OSError as error:
            raise Halt(
                Exit.DISK, f"all rounds are saved, {export_dir} could not be written: {error}; start again with room"
            ) from error
    if log:
        summary = {
            "method": config.method,
            "before": state["before"],
            "after": state["after"],
            "engine_gap_mean_max": state["gap_mean_max"],
            "engine_gap_max": state["gap_max"],
            "wall_s": state["wall_s"] + time.time() - started,
            "steps": state["step"],
            "rollouts_seen": state["rollouts_seen"],
            "seed": config.seed,
            "bad_rows": len(inputs.bad_rows),
            "quarantined": cursor.quarantined,
        }
        with log.going_on():
            with open(os.path.join(config.run_dir, "summary.json"), "w") as file:
                json.dump(summary, file, indent=2)
            runs = {config.method: read_metrics(os.path.join(config.run_dir, "metrics.jsonl"))}
            curves(runs, os.path.join(config.run_dir, "curves.png"))
        log.close()
        if state["after"]:
            print_main(before_after({"before": state["before"], "after": state["after"]}))
        print_main(f"done: {state['step']} rounds in {summary['wall_s']:.0f} s, see {config.run_dir}")
    return live


# -- setting up --------------------------------------------------------------------------------------------------------


def resolve_model(config: Config) -> str:
    if config.model != "toy":
        return resolve_checkpoint(config.model)
    from toy.model import CHECKPOINT  # the toy world is no part of a real run

    return resolve_checkpoint(str(CHECKPOINT))


def load_data(config: Config) -> tuple[list[Question], list[Question], list]:
    """Training questions, evaluation questions and the rows that cannot be used (reported, listed in bad_rows.txt)."""
    train_file, eval_file = config.train_file, config.eval_file
    if config.preset == "toy" and not train_file:
        world = toy_world(config)
        train_file, eval_file = f"{world}/train.jsonl", eval_file or f"{world}/eval.jsonl"
    if not train_file:
        raise ValueError(NO_TRAIN_FILE)
    root = config.data_root or os.path.dirname(os.path.abspath(train_file))
    train, bad = load_questions(train_file, root, null_option=config.null_option)
    evaluation = []
    if eval_file:
        root = config.data_root or os.path.dirname(os.path.abspath(eval_file))
        evaluation, bad_eval = load_questions(eval_file, root, null_option="off", task_types=False)
        if bad_eval:  # a benchmark with holes is another benchmark
            raise ValueError(f"{eval_file}: every evaluation row must be usable; first fault: {bad_eval[0]}")
        check_pairs(eval_file, evaluation)
    if bad and is_main():
        print("\n".join(report_bad_rows(bad)), flush=True)
    if not train:
        raise ValueError(f"{train_file}: no row is usable; the reasons stand above")
    copies = [
        dataclasses.replace(question, id=f"{question.id}/visit {visit}")
        for visit in range(2, config.repeat_data + 1)
        for question in train
    ]
    return train + copies, evaluation, bad


def toy_world(config: Config) -> str:
    """Folder of the toy's clips and rows; rank 0 makes it once, other runs share it."""
    from toy.world import write_once

    source = pathlib.Path(inspect.getfile(write_once)).read_bytes()  # another generator, another world
    name = f"crpo_toy_world_{config.toy_bias:g}_{hashlib.sha256(source).hexdigest()[:12]}"
    folder = os.path.join(tempfile.gettempdir(), name)
    together(lambda: is_main() and write_once(folder, bias=config.toy_bias))
    return folder


def list_bad_rows(
    config: Config, bad: list, cursor: QuestionCursor, quarantined: dict[str, str], log: MetricLog
) -> None:
    """bad_rows.txt: rows found unusable at the start, then those whose clip turned out damaged (new ones printed)."""
    rows = {question.id: question.row for question in cursor.questions}
    lines = {
        name: f"{config.train_file or 'toy'}:{rows[name]} ({name}) unusable once read: {reason}"
        for name, reason in cursor.quarantined.items()
    }
    for name in quarantined:
        print_main(f"quarantined {lines[name]}")
    with log.going_on(), open(os.path.join(config.run_dir, "bad_rows.txt"), "w") as file:
        file.writelines(f"{line}\n" for line in [*bad, *lines.values()])


def settings_of_method(config: Config) -> MethodSettings:
    """The part of the settings that a method's row may read."""
    allowed = tuple(name for name, on in ((HORIZONTAL_FLIP, config.flip), (TEMPORAL_REVERSE, config.reverse)) if on)
    same = {field.name for field in dataclasses.fields(MethodSettings)} & set(vars(config))
    return MethodSettings(
        transforms=allowed,
        use_crr=config.crr,
        use_behave=config.behave,
        shuffled_rollouts=int(config.shuffled_share * config.rollouts),
        **{name: getattr(config, name) for name in same},
    )


def sampling(config: Config, rollouts: int, greedy: bool = False) -> Sampling:
    return Sampling(rollouts, 0.0 if greedy else config.temperature, config.max_completion_tokens)


# -- H: sync -----------------------------------------------------------------------------------------------------------


def compare_copies(parameters, engine: dict) -> None:
    """Checksum every tensor, trainer's cast against engine's copy: at lr 1e-6 a stale one hides in bf16 noise."""
    wrong = [name for name, tensor in parameters if checksum(tensor) != engine.get(name)]
    wrong = sorted({name for part in gather_objects(wrong) for name in part})
    if wrong:
        raise RuntimeError(f"after the sync {len(wrong)} engine tensors differ from the trainer's, first {wrong[:3]}")


def measure_gap(config, engine, policy, group: Group, encoded: EncodedPrompt, device, numbers: Accumulator) -> None:
    """The trainer-engine gap after the last sync, on a fresh sample of one prompt of the last round (all ranks)."""
    (out,) = engine.generate([Request(group.prompt, sampling(config, config.rollouts), config.seed)])
    engine.sleep()
    fresh = dataclasses.replace(group, rollouts=out.rollouts, advantages=torch.zeros(config.rollouts))
    packs = update.make_packs([(fresh, encoded)], questions=1, tokens_per_pack=sys.maxsize, device=device)
    update.engine_gap(packs, update.logps(policy, packs), numbers)


# -- I: what a person sees ---------------------------------------------------------------------------------------------


def add_speed(
    numbers: Accumulator, phases: Phases, mini_batches: list[list[update.Pack]], cost: Cost, *, passes: int
) -> None:
    """Throughput of a round on this rank; `passes`: forward passes that old, reference and update together equal."""
    work = sum((pack.work for packs in mini_batches for pack in packs), Work())
    seconds = phases.seconds["old_ref"] + phases.seconds["update"]
    numbers.add("speed/logical_tokens_per_s", work.unshared_rows / seconds)
    numbers.add("speed/physical_tokens_per_s", work.rows / seconds)
    numbers.add("speed/tokens_per_s", work.unshared_rows / (phases.elapsed() - phases.seconds.get("eval", 0.0)))
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if peak:
        numbers.add("speed/mfu", (cost.tower(work) + passes * cost.trained(work)) / (seconds * peak))


def peak_memory_gb() -> float:
    """Peak since the last call on this rank: GPU memory where there is one; else resident memory since the start."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
