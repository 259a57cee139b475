"What `miniai.unet` promises beyond its notebook: our U-Net is the library's, with any weights and configuration, in its outputs and gradients, and what it keeps between steps is never out of date"
import copy, pickle

import diffusers, pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file

from miniai.core import *
from miniai.pipeline import *
from miniai.unet import *

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning') # numpy's, of the library's schedulers
few = settings(deadline=None, derandomize=True, max_examples=25)
prompt = 'a red house on a blue background'
Library = diffusers.UNet2DConditionModel


def randn(*shape, seed=0): return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
def error(a, b): return ((a-b).norm()/b.norm()).item()


def small(**changes):
    "A configuration in which everything is small"
    return dict(block_out_channels=(16,32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=24, attention_head_dim=4,
        down_block_types=('CrossAttnDownBlock2D','DownBlock2D'), up_block_types=('UpBlock2D','CrossAttnUpBlock2D')) | changes


def pair(config, seed=0):
    "The library's network with random weights, biases and norms included, and ours with the same ones"
    theirs,ours = Library(**config).eval(),UNet2DConditionModel(**config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name,p in theirs.named_parameters():
            spread = p.shape[1:].numel()**-.5 if p.ndim>1 else .3
            p.copy_(torch.randn(p.shape, generator=generator)*spread + ('norm' in name and name.endswith('weight')))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours,theirs


def inputs(config, n=2, size=(8,8), length=5, seed=0):
    "Latents, and the keyword arguments of a call"
    kwargs = dict(encoder_hidden_states=randn(n, length, config['cross_attention_dim'], seed=seed+1))
    dim = config.get('time_cond_proj_dim')
    if dim: kwargs['timestep_cond'] = randn(n, dim, seed=seed+2)
    return randn(n, config.get('in_channels', 4), *size, seed=seed),kwargs


@st.composite
def configurations(draw):
    "Of one to three levels, in any of the ways in which Stable Diffusion's networks differ"
    n = draw(st.integers(1,3))
    groups = draw(st.sampled_from([1,2,4]))
    widths = draw(st.lists(st.sampled_from([8,16,24]), min_size=n, max_size=n))
    heads = draw(st.sampled_from([1,2,4]) | st.lists(st.sampled_from([1,2,4,8]), min_size=n, max_size=n))
    types = lambda where: [f'CrossAttn{where}Block2D' if draw(st.booleans()) else f'{where}Block2D' for _ in range(n)]
    return dict(block_out_channels=widths, layers_per_block=draw(st.integers(1,3)), norm_num_groups=groups, attention_head_dim=heads,
        cross_attention_dim=draw(st.sampled_from([8,20])), down_block_types=types('Down'), up_block_types=types('Up'),
        use_linear_projection=draw(st.booleans()), upcast_attention=draw(st.booleans()), time_cond_proj_dim=draw(st.sampled_from([None,6])),
        norm_eps=draw(st.sampled_from([1e-5,1e-6])), in_channels=draw(st.sampled_from([4,9])), out_channels=draw(st.sampled_from([4,3])))


# The same numbers

@pytest.mark.this_machine('parity')
@few
@given(configurations(), st.integers(1,3), st.tuples(st.integers(4,11), st.integers(4,11)), st.integers(1,7), st.booleans(), st.integers(0,99))
def test_any_configuration_gives_what_the_library_gives(config, n, size, length, per_image, seed):
    ours,theirs = pair(config, seed)
    x,kwargs = inputs(config, n, size, length, seed)
    t = torch.arange(n)*300 + seed if per_image else torch.tensor(seed*10)
    with torch.no_grad(): a,b = (unet(x, t, **kwargs).sample for unet in (ours,theirs))
    assert a.shape==b.shape and error(a, b)<1e-5


@settings(few, max_examples=10)
@given(configurations(), st.tuples(st.integers(4,9), st.integers(4,9)), st.integers(0,99))
def test_gradients_of_weights_latents_and_embeddings_are_the_librarys(config, size, seed):
    grads = []
    for unet in pair(config, seed):
        x,kwargs = inputs(config, 2, size, seed=seed)
        given = [x.requires_grad_(), *(o.requires_grad_() for o in kwargs.values())]
        unet(x, torch.tensor([100,700]), **kwargs).sample.square().sum().backward()
        grads.append({**{k:p.grad for k,p in unet.named_parameters()}, **{i:o.grad for i,o in enumerate(given)}})
    ours,theirs = grads
    whole = sum(g.square().sum() for g in theirs.values())**.5
    for name,g in theirs.items(): # Some are zero but for rounding: those of a softmax over one token, say
        assert (ours[name]-g).norm() < 1e-4*max(g.norm(), 1e-3*whole), name


models = sorted(p.parent.name for p in embedded_model().parent.glob('*/model_index.json'))

@pytest.mark.this_machine('parity')
@pytest.mark.parametrize('model', models)
def test_the_embedded_models_give_what_the_library_gives(model):
    ours,theirs = (cls.from_pretrained(embedded_model(model), subfolder='unet') for cls in (UNet2DConditionModel,Library))
    for n,size,t in (1,(16,16),999), (2,(16,16),500), (3,(9,13),torch.tensor(3)):
        x,kwargs = inputs(dict(theirs.config), n, size, 24)
        with torch.no_grad(): a,b = (unet(x, t, **kwargs).sample for unet in (ours,theirs))
        assert error(a, b)<1e-5


def test_the_picture_is_the_librarys(sd):
    unet = UNet2DConditionModel.from_pretrained(embedded_model(), 'unet')
    run = dict(seed=3, num_inference_steps=5, guidance_scale=4)
    a,b = (torch.cat([s.latents for s in o.steps([prompt,'a cat'], **run)]) for o in (StableDiffusion(**{**vars(sd),'unet':unet}), sd))
    assert error(a, b)<1e-3


@pytest.mark.parametrize('config,n', [
    (dict(cross_attention_dim=768), 859_520_964), # Stable Diffusion 1.x
    (dict(cross_attention_dim=1024, attention_head_dim=[5,10,20,20], use_linear_projection=True, upcast_attention=True), 865_910_724)]) # 2.x
def test_at_full_size_names_shapes_and_their_order_are_the_librarys(config, n):
    with torch.device('meta'): ours,theirs = (cls(**config) for cls in (UNet2DConditionModel,Library))
    assert [(k,v.shape) for k,v in ours.named_parameters()] == [(k,v.shape) for k,v in theirs.named_parameters()]
    assert {k:v.shape for k,v in ours.state_dict().items()} == {k:v.shape for k,v in theirs.state_dict().items()}
    assert sum(p.numel() for p in ours.parameters())==n


def test_the_same_seed_initialises_the_same_weights():
    weights = []
    for cls in UNet2DConditionModel,Library:
        torch.manual_seed(0)
        weights.append(cls(**small(time_cond_proj_dim=6)).state_dict())
    assert all(torch.equal(v, weights[0][k]) for k,v in weights[1].items())


# Weights and configurations go both ways

def test_weights_go_both_ways(tmp_path):
    ours,theirs = pair(small())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    theirs.save_pretrained(tmp_path/'unet')
    again = UNet2DConditionModel.from_pretrained(tmp_path, subfolder='unet')
    x,kwargs = inputs(small())
    with torch.no_grad(): assert error(again(x, 5, **kwargs).sample, ours(x, 5, **kwargs).sample)<1e-4
    half = UNet2DConditionModel.from_pretrained(tmp_path/'unet', dtype=torch.bfloat16)
    assert half.dtype==torch.bfloat16 and half.device.type=='cpu' and not half.training


def test_wrong_weights_are_named(tmp_path):
    _,theirs = pair(small())
    theirs.save_pretrained(tmp_path)
    file = tmp_path/'diffusion_pytorch_model.safetensors'
    weights = load_file(file)
    for change,name in ({'conv_out.bias':None}, 'conv_out.bias'), ({'extra':torch.ones(1)}, 'extra'), ({'conv_out.bias':torch.ones(5)}, 'conv_out.bias'):
        save_file({k:v for k,v in {**weights, **change}.items() if v is not None}, file)
        with pytest.raises(ValueError, match=name): UNet2DConditionModel.from_pretrained(tmp_path)


@pytest.mark.parametrize('change', [dict(addition_embed_type='text_time'), dict(transformer_layers_per_block=[1,2]), dict(act_fn='gelu'), dict(flip_sin_to_cos=False),
    dict(class_embed_type='timestep'), dict(down_block_types=['DownBlock2D','AttnDownBlock2D']), dict(freq_shift=1), dict(dropout=.1), dict(unheard_of=3)])
def test_what_is_not_implemented_is_refused_by_name(change):
    [(name,value)] = change.items()
    with pytest.raises(ValueError, match='AttnDownBlock2D' if name.startswith('down') else name): UNet2DConditionModel(**small(**change))


@pytest.mark.parametrize('change', [dict(attention_head_dim=3), dict(norm_num_groups=5), dict(down_block_types=['DownBlock2D'])])
def test_what_does_not_fit_together_is_refused(change):
    with pytest.raises(ValueError): UNet2DConditionModel(**small(**change))


def test_what_changes_nothing_is_accepted():
    "All entries of the library's own file, among them many that are off"
    config = dict(Library(**small()).config)
    ours = UNet2DConditionModel(**config)
    assert all(ours.config[k]==v for k,v in config.items()) and ours.config.in_channels==4 and ours.config['sample_size'] is None


# What is kept between the steps is never out of date

def fresh(ours):
    "The same network without anything kept"
    again = UNet2DConditionModel(**ours.config).eval()
    again.load_state_dict(ours.state_dict())
    return again


def same_as_fresh(ours, x, t, **kwargs):
    with torch.no_grad(): return error(ours(x, t, **kwargs).sample, fresh(ours)(x, t, **kwargs).sample)<1e-4


@torch.no_grad()
def test_a_run_keeps_the_keys_and_values_of_its_prompt():
    ours,_ = pair(small())
    x,kwargs = inputs(small())
    kept = []
    for t in 900,torch.tensor(600),torch.tensor([300,300]):
        assert same_as_fresh(ours, x, t, **kwargs)
        kept.append(ours.last_prompt)
        kwargs = {k:v.clone() for k,v in kwargs.items()} # The pipeline concatenates two prompts anew in each step
    assert kept[0] is kept[1] is kept[2] and len(kept[0].made)==sum(name.endswith('attn2') for name,_ in ours.named_modules())


@torch.no_grad()
@pytest.mark.parametrize('change', ['another prompt','another length','another batch','in place','weights loaded','weights between runs','another precision'])
def test_what_has_changed_is_noticed(change):
    ours,_ = pair(small())
    x,kwargs = inputs(small())
    assert same_as_fresh(ours, x, 900, **kwargs)
    t,e = 600,kwargs['encoder_hidden_states']
    if change=='another prompt': kwargs = dict(encoder_hidden_states=e.flip(0))
    if change=='another length': kwargs = dict(encoder_hidden_states=e[:,:-1])
    if change=='another batch': x,kwargs = x[:1],dict(encoder_hidden_states=e[:1])
    if change=='in place': e[0,0] += 1
    if change=='weights loaded': ours.load_state_dict({k:v*1.1 for k,v in ours.state_dict().items()})
    if change=='weights between runs':
        t = 900
        for p in ours.parameters(): p.data *= 1.1 # Which no counter of PyTorch's notices
    if change=='another precision': ours,x,kwargs = ours.double(),x.double(),dict(encoder_hidden_states=e.double())
    if change=='another precision': assert ours(x, t, **kwargs).sample.dtype==torch.float64
    else: assert same_as_fresh(ours, x, t, **kwargs)


def test_training_between_two_samples_is_noticed():
    ours,_ = pair(small())
    x,kwargs = inputs(small())
    assert same_as_fresh(ours, x, 900, **kwargs)
    opt = torch.optim.SGD(ours.parameters(), .1)
    ours(x, 700, **kwargs).sample.square().mean().backward()
    assert ours.last_prompt is None
    opt.step()
    assert same_as_fresh(ours, x, 500, **kwargs)


def test_a_network_that_has_run_can_be_copied_and_pickled():
    ours,_ = pair(small())
    x,kwargs = inputs(small())
    with torch.inference_mode(): expected = ours(x, 900, **kwargs).sample
    for again in copy.deepcopy(ours),pickle.loads(pickle.dumps(ours)):
        with torch.no_grad(): assert error(again(x, 800, **kwargs).sample, ours(x, 800, **kwargs).sample)<1e-4
    ours(x, 700, **kwargs).sample.sum().backward() # What was kept in inference mode isn't used for gradients
    assert expected.is_inference() and ours.conv_in.weight.grad.abs().sum()>0


def test_prompts_that_change_within_a_run_and_back(sd):
    "As a callback does that assigns embeddings"
    ours = UNet2DConditionModel.from_pretrained(embedded_model(), 'unet')
    e = encode_text([prompt,'a cat'], sd.tokenizer, sd.text_encoder)
    x = randn(*sd.latent_shape())
    for t,i in (900,0),(700,1),(500,1),(300,0),(100,0):
        with torch.no_grad(): assert error(ours(x, t, e[i:i+1]).sample, sd.unet(x, t, e[i:i+1]).sample)<1e-4


# Noise and picture

@few
@given(st.floats(1e-3,1), st.integers(0,99))
def test_the_original_comes_back(alpha_bar, seed):
    x,noise = randn(2,4,3,3,seed=seed),randn(2,4,3,3,seed=seed+1)
    noisy = alpha_bar**.5*x + (1-alpha_bar)**.5*noise
    torch.testing.assert_close(predict_original(noisy, noise, alpha_bar), x, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(predict_original(noisy, noise, torch.tensor(alpha_bar)), x, atol=1e-4, rtol=1e-3)
