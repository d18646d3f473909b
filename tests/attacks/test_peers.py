"""Our attacks and other people's: the same verdicts, up to the tolerances of the protocol; and none leaves a trace."""

import importlib
import logging
import sys

import pytest
import torch
from torch import nn

from bench.attacks.apgd import apgd
from bench.attacks.autoattack import autoattack
from bench.attacks.fgsm import fgsm
from bench.attacks.fmn import fmn
from bench.attacks.peers import advlib, attackbench, cleverhans, foolbox, pyautoattack, secml, torchattacks
from bench.attacks.pgd import pgd
from bench.attacks.pgd_released import pgd_released
from bench.measuring.passes import counted
from tests.attacks.known import flags, size
from tests.attacks.test_closed_form import exact_distance, middle, problem
from tests.attacks.test_laws import Watched


def installed(package):
    return importlib.util.find_spec(package) is not None


HAS_TORCHATTACKS = installed("torchattacks")
OPTIONAL = {"torchattacks": torchattacks, "adv_lib": advlib, "secmlt": secml, "attackbench": attackbench}
optional = {name: pytest.mark.skipif(not installed(name), reason="optional library: tox -e peers") for name in OPTIONAL}
LIBRARIES = [
    pytest.param(cleverhans, id="cleverhans"),
    pytest.param(foolbox, id="foolbox"),
    pytest.param(torchattacks, id="torchattacks", marks=optional["torchattacks"]),
]
EPS = {"l2": 0.5, "linf": 0.1}


def some(digits, n=50):
    return digits[2][:n], digits[3][:n]


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ["plain", "robust"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_pgd_without_random_start_gives_the_same_flags(library, name, norm, nets, digits):
    (x, y), model = some(digits), nets[name]
    ours = pgd(model, x, y, eps=EPS[norm], norm=norm, losses=["ce"], random_start=False, final_step=False)
    theirs = library.pgd(model, x, y, eps=EPS[norm], norm=norm, random_start=False)
    assert (flags(model, ours, y) != flags(model, theirs, y)).sum() <= 1


@pytest.mark.parametrize("library", LIBRARIES)
def test_pgd_without_random_start_ends_at_the_same_point(library, nets, digits):
    """On mid-grey images, so that the box is out of play: cleverhans clips to it before projecting."""
    (x, y), model = some(digits), nets["robust"]
    x = 0.3 + 0.4 * x
    trace = {}
    ours = pgd(model, x, y, eps=0.2, losses=["ce"], random_start=False, final_step=False, steps=10, trace=trace)
    robust = flags(model, ours, y)
    assert robust.sum() > 10
    theirs = library.pgd(model, x, y, eps=0.2, random_start=False, steps=10)
    apart = (trace["last"] - theirs)[robust].abs().flatten(1).amax(1)
    assert (apart <= 1e-4).double().mean() >= 0.95
    assert apart.max() <= 5e-3  # where a path crosses a kink of the network, rounding grows


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ["plain", "robust"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_pgd_with_random_start_gives_the_same_robust_accuracy(library, name, norm, nets, digits):
    (x, y), model = some(digits, 100), nets[name]
    ours = flags(model, pgd(model, x, y, eps=EPS[norm], norm=norm, losses=["ce"], final_step=False), y)
    theirs = flags(model, library.pgd(model, x, y, eps=EPS[norm], norm=norm), y)
    assert int(ours.sum()) <= int(theirs.sum()) + 2, "ours may be stronger: it keeps the best point of the path"
    assert int(theirs.sum()) - int(ours.sum()) <= 8


BESIDE = {  # what needs an environment of its own: our attack, theirs, norm, settings, package
    "advlib pgd": (pgd, advlib.pgd, "linf", {}, "adv_lib"),
    "advlib apgd l2": (apgd, advlib.apgd, "l2", {"steps": 40}, "adv_lib"),
    "advlib apgd linf": (apgd, advlib.apgd, "linf", {"steps": 40}, "adv_lib"),
    "advlib fmn l2": (fmn, advlib.fmn, "l2", {}, "adv_lib"),
    "advlib fmn linf": (fmn, advlib.fmn, "linf", {}, "adv_lib"),
    "secml pgd l2": (pgd, secml.pgd, "l2", {}, "secmlt"),
    "secml pgd linf": (pgd, secml.pgd, "linf", {}, "secmlt"),
    "attackbench apgd l2": (apgd, attackbench.apgd, "l2", {"steps": 40}, "attackbench"),
    "attackbench apgd linf": (apgd, attackbench.apgd, "linf", {"steps": 40}, "attackbench"),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=optional[BESIDE[n][-1]]) for n in BESIDE])
def test_other_implementations_of_the_same_attack_give_the_same_robust_accuracy(name, nets, digits):
    """Ours may be stronger, by a few images; what they return lies in the box, and leaves generators and modes."""
    attack, theirs, norm, settings, _ = BESIDE[name]
    (x, y), model, rng = some(digits, 100), nets["robust"], torch.get_rng_state()
    eps, before = EPS[norm], [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    found = theirs(model, x, y, eps=eps, norm=norm, **settings)
    assert found.shape == x.shape
    assert not found.requires_grad
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.equal(torch.get_rng_state(), rng)
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert parameter.grad is gradient is None or torch.equal(parameter.grad, gradient)
    held = flags(model, found, y) | (size(found - x, norm) > eps * (1 + 1e-4))
    ours = flags(model, attack(model, x, y, eps=eps, norm=norm, **settings), y)
    assert int(ours.sum()) <= int(held.sum()) + 2
    assert int(held.sum()) - int(ours.sum()) <= 12  # adv-lib's FMN runs into the box, ours does not


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_saturated_logits_do_not_fool_our_attacks(norm, nets, digits):
    (x, y), eps = some(digits, 100), EPS[norm]
    plain, saturated = nets["plain"], nets["saturated"]
    for attack in (pgd, autoattack_light):
        before, after = (flags(m, attack(m, x, y, eps=eps, norm=norm), y).sum().item() for m in (plain, saturated))
        assert abs(before - after) <= 2
    before, after = (flags(m, apgd(m, x, y, eps=eps, norm=norm, loss="dlr"), y) for m in (plain, saturated))
    assert (before != after).sum() <= 1, "DLR is invariant but for rounding"
    fooled = flags(saturated, cleverhans.pgd(saturated, x, y, eps=eps, norm=norm), y).sum().item()
    assert fooled >= before.sum().item() + 20, "the fault we are on guard against is real"


def autoattack_light(*args, **settings):
    return autoattack(*args, steps=30, n_queries=100, **settings)


@pytest.mark.parametrize("library", LIBRARIES)
def test_fgsm_takes_the_same_step(library, nets, digits):
    (x, y), model = some(digits), nets["robust"]
    ours, theirs = (a(model, x, y, eps=0.05, norm="linf") for a in (fgsm, library.fgsm))
    same = (ours - theirs).flatten(1).abs().amax(1) < 1e-5
    assert same.float().mean() > 0.9  # a gradient that rounds to either side of 0 may flip a sign


def test_the_released_helper_is_what_cleverhans_does_by_default(nets, digits):
    """Same labels, steps and floor; the starts differ, being drawn by different generators."""
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    (x, y), model = some(digits, 100), nets["plain"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = projected_gradient_descent(model, x, 0.5, 0.05, 10, 2)
    for p in model.parameters():
        p.grad = None
    ours = pgd_released(model, x, y, eps=0.5, loss_batch=100)
    assert abs(int(flags(model, ours, y).sum()) - int(flags(model, theirs.detach(), y).sum())) <= 4
    gap = size(ours - x, "l2").mean() - size(theirs.detach() - x, "l2").mean()
    assert abs(gap) < 0.005


@pytest.mark.parametrize(("steps", "used"), [(3, 0.29), (10, 0.76)])
def test_the_released_helper_uses_the_known_share_of_its_budget(steps, used):
    class Slope(nn.Module):
        def forward(self, x):
            gap = 0.03 * (x - 0.5).flatten(1).sum(1)
            return torch.stack([gap, -gap], 1)

    x = 0.501 + 0.001 * torch.rand(200, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = pgd_released(Slope(), x, torch.zeros(200, dtype=torch.long), eps=0.5, steps=steps)
    along = -(found - x).flatten(1).sum(1) / (3 * 16 * 16) ** 0.5 / 0.5
    assert abs(along.mean().item() - used) < 0.02


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("robust", "l2"),
        pytest.param("plain", "linf", marks=pytest.mark.slow),
        pytest.param("saturated", "l2", marks=pytest.mark.slow),
    ],
)
def test_autoattack_agrees_with_the_official_one(name, norm, nets, digits):
    (x, y), model = some(digits, 12), nets[name]
    eps, ours, theirs = EPS[norm], {}, {}
    robust = flags(model, autoattack(model, x, y, eps=eps, norm=norm, n_queries=200, trace=ours), y)
    official = flags(model, pyautoattack.autoattack(model, x, y, eps=eps, norm=norm, n_queries=200, trace=theirs), y)
    assert torch.equal(robust, official)
    clean = [stage == "clean" for stage in ours["broken_by"]]
    assert clean == [stage == "clean" for stage in theirs["broken_by"]]


def official_apgd(model, loss, eps, norm):
    """Return the official APGD object, to be given our starting point."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    kind = APGDAttack_targeted if loss == "targeted" else APGDAttack
    attack = kind(model, eps=eps, norm={"l2": "L2", "linf": "Linf"}[norm], device="cpu", n_iter=40)
    if loss != "targeted":
        attack.loss = loss
    return attack


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("loss", ["ce", "dlr", "targeted"])
@pytest.mark.parametrize("name", ["plain", "robust"])
def test_apgd_from_the_same_start_breaks_the_same_examples(name, loss, norm, nets, digits, monkeypatch):
    """One target, so that both climb the same loss; the official object is handed our random start."""
    from bench.attacks.apgd import STREAMS
    from bench.attacks.core import balls, randomness

    x, y = some(digits, 60)
    model, eps = nets[name], EPS[norm]
    right = flags(model, x, y)
    x, y = x[right], y[right]
    ours = flags(model, apgd(model, x, y, eps=eps, norm=norm, loss=loss, n_target_classes=1, steps=40), y)
    keys = randomness.example_keys(x, 0)
    start = (x + balls.sphere_perturbation(x, keys, STREAMS[loss], eps, norm)).clamp(0, 1)
    theirs = official_apgd(model, loss, eps, norm)
    theirs.init_hyperparam(x)
    theirs.y_target = model(x).sort(dim=1)[1][:, -2]
    with torch.no_grad():
        _, held, _, _ = theirs.attack_single_run(x, y, x_init=start)
    assert (ours != held).sum() <= 1


def test_the_official_autoattack_serves_any_number_of_classes():
    for classes in (2, 3, 4):
        model, x, y = problem(classes, 36, box=False, n=8)
        x = x.reshape(-1, 1, 6, 6)
        exact = exact_distance(model, x, y, "l2", box=False)
        eps = middle(exact)
        robust = flags(model, pyautoattack.autoattack(model, x, y, eps=eps, n_queries=10), y)
        assert not robust[exact < 0.98 * eps].any()
        assert robust[exact > 1.001 * eps].all()


def test_the_official_square_is_refused_where_it_would_divide_by_zero():
    model, x, y = problem(3, 16, box=False, n=2)
    with pytest.raises(ValueError, match="at least 5 rows for Square-l2, got 4"):
        pyautoattack.square(model, x.reshape(-1, 1, 4, 4), y, eps=0.1)


PEER_ATTACKS = {
    "cleverhans pgd": cleverhans.pgd, "cleverhans fgsm": cleverhans.fgsm,
    "foolbox pgd": foolbox.pgd, "foolbox fgsm": foolbox.fgsm,
    "official autoattack": lambda *a, **k: pyautoattack.autoattack(*a, n_queries=5, **k),
}  # fmt: skip


@pytest.mark.parametrize("name", PEER_ATTACKS)
def test_passes_of_other_libraries_are_counted(name):
    """As the network's own forward and the gradients at its input say."""
    model, seen = Watched().eval(), [0, 0]
    for parameter in model.parameters():
        parameter.requires_grad_(False)

    def see(module, inputs):
        seen[0] += len(inputs[0])
        if inputs[0].requires_grad:
            (images,) = inputs
            images = images.view_as(images)
            images.register_hook(lambda gradient: seen.__setitem__(1, seen[1] + len(gradient)))
            return (images,)
        return None

    x = torch.rand(3, 1, 6, 6)
    y = model(x).argmax(1)
    model.register_forward_pre_hook(see)
    with counted(model) as passes:
        PEER_ATTACKS[name](model, x, y, eps=0.1)
    assert [passes.forwards, passes.backwards] == seen
    assert passes.forwards > 0 < passes.backwards


@pytest.mark.parametrize("name", PEER_ATTACKS)
def test_peers_leave_no_trace(name, capsys, caplog):
    model = Watched().train()
    model.norm.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(3, 1, 6, 6).requires_grad_()
    rng, level = torch.get_rng_state(), logging.getLogger("auto-attack").disabled

    def tracer(frame, event, arg):
        return None

    original = sys.gettrace()
    sys.settrace(tracer)
    try:
        found = PEER_ATTACKS[name](model, x.detach() if "official" in name else x, torch.tensor([0, 1, 2]), eps=0.1)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(original)
    assert not found.requires_grad
    assert torch.equal(torch.get_rng_state(), rng)
    assert model.training
    assert not model.norm.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert logging.getLogger("auto-attack").disabled == level
    assert capsys.readouterr() == ("", "")
    assert not caplog.records
    again = PEER_ATTACKS[name](model, x.detach(), torch.tensor([0, 1, 2]), eps=0.1)
    assert torch.equal(found, again), "the seed is ours, not the clock"


@pytest.mark.parametrize("library", ["torchattacks", "secmlt"])
def test_a_network_without_parameters_is_attacked_all_the_same(library, capsys):
    """The libraries take the device from the first parameter; where there is none they print or end in an error."""
    x = 0.3 + 0.4 * torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y, peer = torch.arange(6) % 3, OPTIONAL[library]
    if not installed(library):
        pytest.skip("optional library: tox -e peers")
    weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))

    class Plain(nn.Module):
        def forward(self, x):
            return x.flatten(1) @ weight.T

    linear = nn.Linear(16, 3, bias=False)
    linear.weight.data = weight
    found = peer.pgd(Plain().eval(), x, y, eps=0.2)
    assert capsys.readouterr() == ("", "")
    assert torch.allclose(found, peer.pgd(nn.Sequential(nn.Flatten(), linear).eval(), x, y, eps=0.2), atol=1e-6)


@pytest.mark.skipif(not installed("secmlt"), reason="optional library: tox -e peers")
def test_the_random_start_of_secml_lies_in_the_direction_of_the_image():
    from secmlt.optimization.initializer import RandomLpInitializer

    x = 0.15 + 0.7 * torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    start = RandomLpInitializer(perturbation_model="l2", radius=0.5)(x)
    assert torch.allclose(size(start, "l2"), torch.full((20,), 0.5).double(), atol=1e-5)
    assert torch.cosine_similarity(start.flatten(1), x.flatten(1)).min() > 0.95


@pytest.mark.skipif(not installed("attackbench"), reason="optional library: tox -e peers")
def test_attackbench_takes_seed_0_whatever_it_is_given(nets, digits):
    (x, y), model = some(digits), nets["robust"]
    first, second = (attackbench.apgd(model, x, y, eps=0.3, steps=5, seed=seed) for seed in (0, 1))
    assert torch.equal(first, second)


def test_the_official_square_leaves_the_last_row_and_column_as_the_start_has_them():
    from pyautoattack.square import SquareAttack

    model, x, y = problem(3, 64, box=False, n=6)
    x, edge, changes = x.reshape(-1, 1, 8, 8), torch.zeros(8, 8, dtype=torch.bool), []
    edge[-1], edge[:, -1] = True, True
    for n_queries in (1, 300):
        attack = SquareAttack(model, norm="L2", eps=1e-3, n_queries=n_queries, device="cpu")
        attack.init_hyperparam(x)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            changes.append((attack.attack_single_run(x, y)[1] - x)[:, 0])
    few, many = changes
    assert torch.cosine_similarity(few[:, edge], many[:, edge]).min() > 0.999
    assert torch.cosine_similarity(few[:, ~edge], many[:, ~edge]).max() < 0.9


@pytest.mark.skipif(HAS_TORCHATTACKS, reason="it is installed")
def test_a_missing_library_is_said_clearly():
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps torchattacks"):
        torchattacks.pgd(nn.Identity(), torch.rand(1, 1, 2, 2), torch.tensor([0]), eps=0.1)


@pytest.mark.parametrize("name", [n for n in BESIDE if not installed(BESIDE[n][-1])])
def test_a_library_that_is_not_there_is_said_with_what_to_do(name):
    _, theirs, norm, settings, _ = BESIDE[name]
    with pytest.raises(ModuleNotFoundError, match=r"expected .*, got none .*pip install"):
        theirs(nn.Identity(), torch.rand(1, 1, 2, 2), torch.tensor([0]), eps=0.1, norm=norm, **settings)


def test_a_norm_that_a_library_lacks_is_refused():
    with pytest.raises(ValueError, match=r"adv-lib's pgd: expected a norm among \['linf'\]"):
        advlib.pgd(nn.Identity(), torch.rand(1, 1, 2, 2), torch.tensor([0]), eps=0.1, norm="l2")


def test_a_step_that_cleverhans_refuses_is_said_clearly():
    with pytest.raises(ValueError, match="a step of at most eps"):
        cleverhans.pgd(nn.Flatten(), torch.rand(1, 1, 2, 2), torch.tensor([0]), eps=0.1, steps=2)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ["plain", "robust", "saturated"])
def test_autoattack_agrees_with_the_official_one_on_200_images(name, norm, nets, digits):
    """Verdicts agree; what only the official one breaks is at most one image, on the verge: other seeds of ours do.

    The aim, 0.2 points, is less than one image of 200. Each difference is listed with its reason.
    """
    (x, y), model, eps = some(digits, 200), nets[name], EPS[norm]
    ours, theirs = {}, {}
    robust = flags(model, autoattack(model, x, y, eps=eps, norm=norm, trace=ours), y)
    official = flags(model, pyautoattack.autoattack(model, x, y, eps=eps, norm=norm, trace=theirs), y)
    missed, gained = (robust & ~official).nonzero()[:, 0], (official & ~robust).nonzero()[:, 0]
    print(f"\n{name} {norm}: robust {int(robust.sum())} by ours, {int(official.sum())} by the official one")
    for rows, attack, stages in ((missed, autoattack, theirs), (gained, pyautoattack.autoattack, ours)):
        for row in rows.tolist():
            one, label = x[row : row + 1], y[row : row + 1]
            seeds = [
                s for s in (1, 2, 3) if not flags(model, attack(model, one, label, eps=eps, norm=norm, seed=s), y[row])
            ]
            who = "the official one" if attack is autoattack else "ours"
            print(f"  image {row}: only {who} breaks it ({stages['broken_by'][row]}); the other with seeds {seeds}")
            assert attack is not autoattack or seeds, "what the official one breaks, ours breaks with another seed"
    assert len(missed) - len(gained) <= 1
