import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.loading import to_codes
from depth_distill.loading.meaning import Affine, Meaning
from depth_distill.quantization.graph.trace import trace
from tests.loading.strangers import Monodepth, randomized

IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
METRES = Meaning(returns="metres", min_m=0.5, max_m=3.0).affine
INVERSE = Meaning(returns="inverse_metres", min_m=0.5, max_m=3.0).affine
FLIP = Affine(-1.0, 1.0, False)


class Net(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 1, 1, bias=False)
        self.end = end

    def forward(self, image):
        return self.end(self.head(self.features(image)))


def names(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]


def codes(affine, output):
    found = affine.scale * output + affine.offset
    return found.clamp(0, 1) if affine.clip else found


def enlarged(maps):
    return F.interpolate(maps, scale_factor=2, mode="bilinear")


def fit_shape(graph, channels, resize):
    with torch.no_grad():
        to_codes.fit_shape(graph, graph(IMAGE[:1]), (32, 32), channels, resize)


@pytest.mark.parametrize(
    ("end", "affine", "how"),
    [
        (nn.Identity(), METRES, "folded into head"),
        (lambda y: y * 7 + 0.25, METRES, "folded into head"),
        (lambda y: 2 - y / 4, METRES, "folded into head"),
        (nn.ReLU(), METRES, "folded into head"),
        (lambda y: F.interpolate(y, scale_factor=2), METRES, "folded into head"),
        (nn.Sequential(nn.BatchNorm2d(1)), METRES, "folded into end.0"),
        (nn.ReLU(), INVERSE, "folded into head"),
        (nn.Sigmoid(), FLIP, "folded into head"),
        (lambda y: torch.clamp(y, 0, 1), FLIP, "folded into head"),
        (nn.Hardsigmoid(), FLIP, "folded into head"),
        (lambda y: 10 * torch.sigmoid(y), METRES, "a 1 x 1 convolution behind sigmoid"),
        (lambda y: F.softplus(y), INVERSE, "a 1 x 1 convolution behind softplus"),
        (nn.ELU(), METRES, "a 1 x 1 convolution behind end"),
        # Averages of what a ReLU cut off are not cut off averages.
        (
            lambda y: F.interpolate(F.relu(y), scale_factor=2, mode="bilinear"),
            METRES,
            "a 1 x 1 convolution behind relu",
        ),
        (lambda y: F.interpolate(F.relu(y), scale_factor=2), METRES, "folded into head"),
        (lambda y: enlarged(torch.sigmoid(y)), FLIP, "folded into head"),
        # A convolution needs the axis of channels, which is not there yet behind the last activation.
        (
            lambda y: (10 * torch.sigmoid(y)[:, 0])[:, None].unsqueeze(1).squeeze(1),
            METRES,
            "a 1 x 1 convolution behind squeeze",
        ),
    ],
)
def test_an_output_becomes_codes_exactly(end, affine, how):
    net = randomized(Net(end))
    graph = trace(net)

    found = to_codes.bring_to_codes(graph, affine)

    assert found == how
    with torch.no_grad():
        torch.testing.assert_close(graph(IMAGE), codes(affine, net(IMAGE)), rtol=0, atol=2e-6)


def test_factors_behind_a_sigmoid_that_make_codes_are_taken_out():
    net = randomized(Net(lambda y: 0.5 + torch.sigmoid(y) * 2.5))
    graph = trace(net)

    how = to_codes.bring_to_codes(graph, Meaning(returns="metres", min_m=0.5, max_m=3.0).affine)

    assert "taken out" in how
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [torch.sigmoid]
    with torch.no_grad():
        torch.testing.assert_close(graph(IMAGE), codes(METRES, net(IMAGE)), rtol=0, atol=1e-6)


def test_the_far_end_of_a_relu_that_is_not_at_an_end_of_the_range_is_kept():
    net = randomized(Net(nn.ReLU()))
    graph = trace(net)
    affine = Affine(0.2, 0.3, True)  # a ReLU's zero is 0.3, inside the range

    assert to_codes.bring_to_codes(graph, affine) == "a 1 x 1 convolution behind end"
    with torch.no_grad():
        torch.testing.assert_close(graph(IMAGE), codes(affine, net(IMAGE)), rtol=0, atol=1e-6)


def test_a_layer_that_others_read_is_left_as_it_is():
    class Both(Net):
        def forward(self, image):
            depth = self.head(self.features(image))
            return depth + torch.sigmoid(depth)

    net = randomized(Both(None))
    graph = trace(net)

    assert to_codes.bring_to_codes(graph, METRES) == "a 1 x 1 convolution behind add"
    with torch.no_grad():
        torch.testing.assert_close(graph(IMAGE), codes(METRES, net(IMAGE)), rtol=0, atol=1e-6)


def test_other_heads_are_removed():
    net = randomized(Monodepth())
    graph = trace(net)

    to_codes.select_output(graph, [[("disp", 0)]])

    assert [name for name in names(graph) if name.startswith("dispconv")] == ["dispconv.0"]
    assert not any(name.startswith("dispconv.1") for name, _ in graph.named_parameters())
    with torch.no_grad():
        assert torch.equal(graph(IMAGE), net(IMAGE)[("disp", 0)])


def test_several_outputs_are_concatenated():
    net = randomized(Monodepth(scales=(0, 1)))
    graph = trace(net)

    to_codes.select_output(graph, [[("disp", 0)], [("disp", 0)]])

    with torch.no_grad():
        assert graph(IMAGE).shape == (2, 2, 32, 32)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ([], "the network returns a dict with the keys ['disp', 2], ['disp', 1], ['disp', 0]; give the path"),
        (["depth"], "there is no key 'depth'; the network returns a dict with the keys"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_there_is(path, message):
    with pytest.raises(ConfigError) as caught:
        to_codes.select_output(trace(Monodepth()), [path])
    assert message in str(caught.value)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_network_of_bgr_images_takes_rgb(grouped):
    net = randomized(Net(nn.Identity()))
    if grouped:
        net.features[0] = nn.Conv2d(3, 3, 1, groups=3)
        net.features[1] = nn.Identity()
        net.head = nn.Conv2d(3, 1, 1)
    graph = trace(net)

    to_codes.take_bgr(graph)

    assert ("from_rgb" in names(graph)) == grouped
    with torch.no_grad():
        torch.testing.assert_close(graph(IMAGE), net(IMAGE.flip(1)))


def test_a_smaller_output_is_enlarged_only_if_that_is_asked_for():
    net = randomized(Net(nn.AvgPool2d(2)))
    with pytest.raises(
        ConfigError, match=r"16 x 16 pixels for an image of 32 x 32: choose another output, or give resize"
    ):
        fit_shape(trace(net), 1, None)

    graph = trace(net)
    fit_shape(graph, 1, "nearest")

    with torch.no_grad():
        torch.testing.assert_close(graph(IMAGE), F.interpolate(net(IMAGE), scale_factor=2))


def test_maps_without_channels_get_one():
    graph = trace(Net(lambda y: y[:, 0]))
    fit_shape(graph, 1, None)
    assert graph(IMAGE).shape == (2, 1, 32, 32)


def test_another_number_of_channels_is_refused():
    with pytest.raises(ConfigError, match=r"\(1, 1, 32, 32\), expected \(B, 2, H, W\); the meaning says how many"):
        fit_shape(trace(Net(nn.Identity())), 2, None)


def test_a_layer_that_is_called_twice_keeps_its_channels_in_order():
    class Twice(Net):
        def forward(self, image):
            return self.head(self.features(image)) + self.head(self.features(image * 0.5))

    net = randomized(Twice(None))
    graph = trace(net)

    to_codes.take_bgr(graph)

    with torch.no_grad():
        torch.testing.assert_close(graph(IMAGE), net(IMAGE.flip(1)))


def test_a_module_may_have_the_name_of_a_function():
    class Named(Net):
        def __init__(self):
            super().__init__(None)
            self.relu = nn.LeakyReLU(0.5)

        def forward(self, image):
            return self.relu(self.head(self.features(image)))

    net = randomized(Named())
    graph = trace(net)

    assert to_codes.bring_to_codes(graph, METRES) == "a 1 x 1 convolution behind relu"
    with torch.no_grad():
        torch.testing.assert_close(graph(IMAGE), codes(METRES, net(IMAGE)), rtol=0, atol=2e-6)


def test_another_function_behind_the_edits_is_refused():
    graph = trace(randomized(Net(nn.Sigmoid())))
    with torch.no_grad():
        found = graph(IMAGE)
    to_codes.require_same(graph, IMAGE, found)

    with pytest.raises(ConfigError, match=r"changed it by .* of the largest code, allowed is 0\.0001"):
        to_codes.require_same(graph, IMAGE, 1 - found)
    to_codes.require_same(graph, IMAGE, found * float("nan"))  # proves nothing
