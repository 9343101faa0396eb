import pytest, torch
from golden import close_to, digits, golden_input, golden_model, golden_weights

CASES = dict(
    A=(dict(), (64, 64), (0.003213, 0.771498, 0.869845, 0.869845, 0.383344, -0.657563, -0.555319), [486, 414, 41, 565, 2590]),
    B=(dict(), (50, 77), (0.020415, 0.806218, -1.282147, -1.282147, -1.270128, 0.226775, -0.523565), [0, 798, 775, 36, 2241]),
    C=(dict(decoder='linear'), (64, 64), (0.325873, 0.450017, 0.654446, 0.654446, 0.428048, -0.267092, 0.173943), [913, 1655, 268, 496, 764]),
    D=(dict(distilled=True), (64, 64), (0.000552, 0.799321, 1.559017, 1.559017, 1.256108, -0.993955, -1.021798), [1320, 761, 640, 638, 737]),
    E=(dict(), (32, 128), (0.004153, 0.874036, 0.936360, 0.936360, 0.760630, 0.263390, 0.845780), [481, 1071, 143, 0, 2401]),
    F=(dict(decoder_depth=1), (64, 64), (-0.013864, 0.928403, 1.441063, 1.441063, 1.295600, -0.390933, 0.831036), [1882, 0, 1400, 5, 809]))

@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

@pytest.mark.parametrize('fused, atol', [(False, 1e-6), (True, 2e-5)], ids=['step by step', 'fused'])
@pytest.mark.parametrize('case', CASES)
def test_logits_equal_the_printed_digits(case, fused, atol):
    settings, size, numbers, counts = CASES[case]
    with torch.no_grad(): output = golden_model(**settings, fused=fused)(golden_input(1, 3, *size))
    assert output.shape == (1, 5, *size)
    got, won = digits(output)
    close_to(got, numbers, atol)
    assert won == counts

def test_the_grid_rule_differs_only_where_the_count_misleads():
    for size, same in ((64, 64), True), ((50, 77), True), ((32, 128), False):
        x = golden_input(1, 3, *size)
        with torch.no_grad(): grid, count = (golden_model(position_rule=r)(x) for r in ('grid', 'count'))
        assert torch.equal(grid, count) == same

def test_the_noise_itself_equals_the_printed_digits():
    weights = golden_weights(golden_model())
    first = sorted(weights)[0]
    assert first == 'decoder.blocks.0.attn.proj.bias'
    close_to(weights[first][:3].tolist(), (0.0480170, 0.0128790, -0.0090501), 0)
    close_to(weights['encoder.norm.weight'][:3].tolist(), (1.0548761, 0.9623852, 0.9736490), 0)
    close_to(golden_input(1, 3, 64, 64).flatten()[:3].tolist(), (-0.8460196, 0.8409187, 0.3999420), 0)

@pytest.mark.parametrize('settings, tensors', [(dict(), 77), (dict(decoder='linear'), 46), (dict(distilled=True), 80), (dict(decoder_depth=1), 65)])
def test_the_golden_models_have_the_right_number_of_tensors(settings, tensors):
    assert len(golden_model(**settings).state_dict()) == tensors

def test_encoder_features_equal_the_printed_digits():
    with torch.no_grad(): features = golden_model().encoder.forward_features(golden_input(1, 3, 64, 64))
    assert features.shape == (1, 17, 128)
    close_to([features.double().mean().item(), features.double().std(correction=0).item()], (-0.0071165, 1.0052081), 1e-6)
    close_to(features[0, 0, :3].tolist(), (0.5119070, -0.2584842, -2.3533916), 1e-6)

@pytest.mark.parametrize('part, shape, printed', [
    ('encoder', (1, 2, 17, 17), {(0, 0, 0, 1): 0.0308394, (0, 1, 5, 7): 0.0662110, (0, 0, 16, 16): 0.0470471}),
    ('decoder', (1, 2, 21, 21), {(0, 0, 0, 1): 0.1062067, (0, 1, 5, 7): 0.0601879, (0, 0, 20, 0): 0.0269419})])
def test_attention_of_the_second_block_equals_the_printed_digits(part, shape, printed):
    model, seen = golden_model(), []
    hook = lambda module, inputs, output: seen.append(output)
    getattr(model, part).blocks[1].attn.attn_drop.register_forward_hook(hook)
    with torch.no_grad(): model(golden_input(1, 3, 64, 64))
    assert seen[0].shape == shape
    close_to([seen[0][at].item() for at in printed], list(printed.values()), 1e-6)
