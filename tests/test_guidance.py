"What `miniai.guidance` promises beyond its notebook, and guidance in `miniai.pipeline`: guidance as in diffusers, and attention maps that are true, cheap and leave no trace, on the library's U-Net and on ours"
import re

import diffusers, matplotlib.pyplot as plt, numpy as np, pytest, torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from hypothesis import example, given, settings, strategies as st

from miniai import unet as own
from miniai.core import *
from miniai.guidance import *
from miniai.pipeline import *

pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning') # numpy's, of the library's schedulers
few = settings(deadline=None, derandomize=True, max_examples=20)
prompt = 'a red house on a blue background'


def random_unet(**kwargs):
    "A small U-Net with random weights"
    torch.manual_seed(0)
    config = dict(sample_size=8, block_out_channels=(16,32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=24, attention_head_dim=4,
        down_block_types=('CrossAttnDownBlock2D','DownBlock2D'), up_block_types=('UpBlock2D','CrossAttnUpBlock2D'))
    return UNet2DConditionModel(**{**config, **kwargs}).eval()


kinds = dict(plain={}, distilled=dict(time_cond_proj_dim=6), sd21=dict(attention_head_dim=(2,4), use_linear_projection=True, upcast_attention=True))
unets = {name: random_unet(**kind) for name,kind in kinds.items()}
exact = {name: random_unet(**kind).double() for name,kind in kinds.items()} # for what only rounding would hide


def randn(*shape, seed=0): return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(n, kind='plain', height=8, width=8, seed=0):
    "Latents, embeddings, embeddings of the empty prompt, and what else the network takes"
    cond = dict(timestep_cond=randn(n,6,seed=seed+3)) if kind=='distilled' else {}
    return randn(n,4,height,width,seed=seed), randn(n,5,24,seed=seed+1), randn(n,5,24,seed=seed+2), cond


# Guidance

@few
@given(st.integers(1,4), st.sampled_from(['plain','distilled','sd21']), st.floats(-3,20), st.floats(0,1), st.booleans(), st.integers(0,999))
def test_one_call_and_two_give_what_the_equation_says(n, kind, scale, rescale, per_image, t):
    unet,(latents,e,u,cond) = exact[kind],inputs(n, kind)
    latents,e,u,*more = (x.double() for x in (latents, e, u, *cond.values()))
    cond,t = dict(zip(cond, more)),torch.full((n,), t) if per_image else t
    with torch.no_grad(): without,text = (unet(latents, t, encoder_hidden_states=x, **cond).sample for x in (u,e))
    expected = rescale_noise_cfg(without + scale*(text-without), text, rescale)
    args = unet, latents, t, e, u, torch.full((n,), scale, dtype=torch.float64) if per_image else scale
    for batched in True,False:
        torch.testing.assert_close(guided_noise(*args, batched=batched, rescale=rescale, **cond), expected, atol=1e-4, rtol=1e-3)


def close(a, b, tol=1e-5): return (a-b).abs().max()<=tol*b.abs().max()


def test_one_call_and_two_of_the_embedded_model(sd):
    e,u = encode_text([prompt,'a cat'], sd.tokenizer, sd.text_encoder),encode_text(['']*2, sd.tokenizer, sd.text_encoder)
    one,two = (guided_noise(sd.unet, randn(*sd.latent_shape(2)), 500, e, u, 7.5, batched=batched) for batched in (True,False))
    assert close(one, two, 1e-4)


@pytest.mark.parametrize('kind', ['plain','distilled'])
@pytest.mark.this_machine('bits')
def test_bit_for_bit_what_the_loop_of_the_library_computes(kind):
    latents,e,u,cond = inputs(3, kind)
    twice = {k:torch.cat([v]*2) for k,v in cond.items()}
    with torch.no_grad(): without,text = unets[kind](torch.cat([latents]*2), 500, encoder_hidden_states=torch.cat([u,e]), **twice).sample.chunk(2)
    assert torch.equal(guided_noise(unets[kind], latents, 500, e, u, 7.5, **cond), without + 7.5*(text-without))
    with torch.no_grad(): alone = unets[kind](latents, 500, encoder_hidden_states=e, **cond).sample
    assert torch.equal(guided_noise(unets[kind], latents, 500, e, **cond), alone)
    assert torch.equal(guided_noise(unets[kind], latents, 500, e, u, 1, **cond), alone)


def test_a_number_for_each_image():
    latents,e,u,_ = inputs(3)
    scales = torch.tensor([0.,1.,9.])
    together = guided_noise(unets['plain'], latents, 500, e, u, scales)
    for i,s in enumerate(scales.tolist()):
        one = slice(i,i+1)
        torch.testing.assert_close(together[one], guided_noise(unets['plain'], latents[one], 500, e[one], u[one], s), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(together[2], guided_noise(unets['plain'], latents, 500, e, u, 8.)[2], atol=1e-3)


@few
@given(st.sampled_from([(1,4,8,8),(3,4,5,7),(2,1,2,2),(2,6)]), st.floats(0,1), st.floats(1,20), st.integers(0,9))
def test_rescaling_is_the_librarys(shape, rescale, loud, seed):
    text = randn(*shape, seed=seed)
    noise_pred = loud*randn(*shape, seed=seed+1)
    torch.testing.assert_close(rescale_noise(noise_pred, text, rescale), rescale_noise_cfg(noise_pred, text, rescale), atol=1e-6, rtol=1e-5)
    dims = tuple(range(1, len(shape)))
    torch.testing.assert_close(rescale_noise(noise_pred, text, 1).std(dims), text.std(dims))


def test_a_whole_picture_with_rescaling_is_the_librarys(tiny):
    sd = tiny
    library = StableDiffusionPipeline(**vars(sd), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    library.set_progress_bar_config(disable=True)
    start = randn(2,4,8,8)
    expected = library([prompt,'a cat'], latents=start.clone(), num_inference_steps=6, guidance_scale=12, guidance_rescale=.7, output_type='latent').images
    e,u = encode_text([prompt,'a cat'], sd.tokenizer, sd.text_encoder),encode_text(['']*2, sd.tokenizer, sd.text_encoder)
    def draw(rescale):
        sd.scheduler.set_timesteps(6)
        latents = start
        for t in sd.scheduler.timesteps: latents = sd.scheduler.step(guided_noise(sd.unet, latents, t, e, u, 12., rescale=rescale), t, latents).prev_sample
        return latents
    assert close(draw(.7), expected, 1e-3) and not close(draw(0.), expected, 1e-2)


def test_gradients_stay_outside_and_may_begin_with_the_result():
    latents,e,u,_ = inputs(1)
    noise_pred = guided_noise(unets['plain'], latents.requires_grad_(), 500, e, u)
    assert not noise_pred.requires_grad and not noise_pred.is_inference()
    (noise_pred*torch.ones(1, requires_grad=True)).sum().backward()


@few
@given(st.floats(-10,1000), st.floats(-10,1000), st.integers(0,999))
def test_intervals(low, high, t):
    if low>=high:
        with pytest.raises(ValueError, match='lower first'): guidance_interval(7.5, low, high)
        return
    schedule = guidance_interval(7.5, low, high)
    assert schedule(t) == schedule(torch.tensor(t)) == (7.5 if low<t<=high else 1)


# Attention maps: true

def spied(unet, *args, **kwargs):
    "The cross-attention of one call as diffusers' plain processor computes it: tensors (n*heads, places, tokens) by layer"
    seen,scores,before = {},Attention.get_attention_scores,dict(unet.attn_processors)
    names = {id(m):name for name,m in unet.named_modules()}
    def spy(attn, *args):
        out = scores(attn, *args)
        seen[names[id(attn)]] = out
        return out
    try:
        Attention.get_attention_scores = spy
        unet.set_attn_processor(AttnProcessor())
        with torch.no_grad(): unet(*args, **kwargs)
    finally:
        Attention.get_attention_scores = scores
        unet.set_attn_processor(before)
    return {k:v for k,v in seen.items() if k.endswith('attn2')}


def ours(unet):
    "Our U-Net with the weights of the library's"
    made = own.UNet2DConditionModel(**unet.config).eval()
    made.load_state_dict(unet.state_dict())
    return made


@pytest.mark.parametrize('kind', ['plain','sd21','distilled'])
@pytest.mark.parametrize('whose', ["the library's",'ours'])
@pytest.mark.parametrize('size', [(8,8),(8,12),(5,7)])
def test_what_the_library_computes_is_what_is_recorded(kind, whose, size):
    latents,e,_,cond = inputs(3, kind, *size)
    expected = spied(unets[kind], latents, 500, encoder_hidden_states=e, **cond)
    unet = unets[kind] if whose!='ours' else ours(unets[kind])
    with attention_maps(unet) as maps: predict_noise(unet, latents, 500, e, **cond)
    assert len(expected) == len(maps.layers) == sum(name.endswith('attn2') for name,_ in unet.named_modules()) > 0
    for name,shares in expected.items():
        torch.testing.assert_close(maps.layers[name].flatten(2), shares.unflatten(0, (3,-1)).mean(1).transpose(1,2), atol=1e-4, rtol=1e-3)
    assert {tuple(m.shape[2:]) for m in maps.layers.values()} <= {size, tuple(-(-s//2) for s in size)}
    torch.testing.assert_close(maps.mean((16,20)).sum(1), torch.ones(3,16,20))


def test_our_network_keeps_the_prompt_while_it_is_recorded(tiny):
    "Keys and values are kept from step to step, and a recording that begins in the middle of a run misses nothing"
    sd,parts = tiny,vars(tiny)
    theirs,mine = StableDiffusion(**parts),StableDiffusion(**{**parts, 'unet':ours(sd.unet)})
    recorded = []
    for pipe in theirs,mine:
        steps = pipe.steps([prompt,'a cat'], seed=0, num_inference_steps=6)
        next(steps), next(steps)
        with attention_maps(pipe.unet) as maps: last = [*steps][-1]
        recorded.append((maps.mean(), last.latents))
    for a,b in zip(*recorded): assert close(a, b, 1e-3)


@pytest.mark.parametrize('batched', [True,False])
@pytest.mark.parametrize('n', [1,2,3])
def test_with_guidance_the_prompts_half_counts(n, batched):
    latents,e,u,_ = inputs(n)
    with attention_maps(unets['plain']) as alone: predict_noise(unets['plain'], latents, 500, e)
    with attention_maps(unets['plain']) as guided: guided_noise(unets['plain'], latents, 500, e, u, batched=batched)
    torch.testing.assert_close(guided.mean(), alone.mean(), atol=1e-4, rtol=1e-3)
    with attention_maps(unets['plain']) as other: predict_noise(unets['plain'], latents, 500, u)
    assert not torch.allclose(other.mean(), alone.mean(), atol=1e-3)


@pytest.mark.parametrize('batched', [True,False])
def test_the_average_is_that_of_the_steps(batched):
    "Also where guidance comes and goes"
    unet,(_,e,u,_) = unets['plain'],inputs(2)
    steps = [(t, randn(2,4,8,8,seed=i), scale) for i,(t,scale) in enumerate([(900,1),(500,7.5),(500,7.5),(100,1)])]
    each = []
    for t,latents,_ in steps:
        with attention_maps(unet) as maps: predict_noise(unet, latents, t, e)
        each.append(maps.mean())
    with attention_maps(unet) as maps:
        for t,latents,scale in steps: guided_noise(unet, latents, t, e, u, scale, batched=batched)
    assert repr(maps).endswith('4 steps)')
    torch.testing.assert_close(maps.mean(), torch.stack(each).mean(0), atol=1e-4, rtol=1e-3)


def test_every_image_has_its_own_maps(tiny):
    prompts = [prompt, 'a cat', 'a green ghost on black']
    with attention_maps(tiny.unet) as together: tiny(prompts, seed=0, num_inference_steps=4)
    for i,p in enumerate(prompts):
        with attention_maps(tiny.unet) as alone: tiny(p, seed=i, num_inference_steps=4)
        torch.testing.assert_close(together.mean()[i], alone.mean()[0], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize('guidance_scale', [1,7.5])
@pytest.mark.this_machine('bits')
def test_the_picture_is_the_same_to_the_last_bit(sd, guidance_scale):
    "Of the embedded model, too; and its maps are as large as its latents"
    run = lambda: [s.latents for s in sd.steps([prompt,'a cat'], seed=3, num_inference_steps=3, guidance_scale=guidance_scale)]
    expected = run()
    with attention_maps(sd.unet) as maps: recorded = run()
    assert all(map(torch.equal, recorded, expected))
    assert maps.mean().shape == (2, sd.tokenizer.model_max_length, *sd.latent_shape()[2:])


@pytest.mark.parametrize('name', ['DDIM','PNDM','LMSDiscrete','EulerAncestralDiscrete'])
def test_recording_changes_no_picture(tiny, name):
    tiny.scheduler = getattr(diffusers, f'{name}Scheduler').from_config({**tiny.scheduler.config, 'skip_prk_steps':True})
    run = lambda: [s.latents for s in tiny.steps([prompt,'a cat'], seed=3, num_inference_steps=5)][-1]
    expected = run()
    with attention_maps(tiny.unet): assert close(run(), expected, 1e-3)


def test_it_works_inside_the_librarys_own_pipeline(tiny):
    library = StableDiffusionPipeline(**vars(tiny), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    library.set_progress_bar_config(disable=True)
    start = randn(*tiny.latent_shape())
    with attention_maps(tiny.unet) as theirs: library(prompt, latents=start, num_inference_steps=4)
    with attention_maps(tiny.unet) as ours: tiny(prompt, latents=start, num_inference_steps=4)
    torch.testing.assert_close(theirs.mean(), ours.mean(), atol=1e-4, rtol=1e-3)


# Attention maps: without a trace, and cheap

class Stop(Exception): pass


@pytest.mark.parametrize('when', ['at once','in the network','between two steps'])
def test_after_an_error_everything_is_as_before(tiny, when):
    modules = [name for name,_ in tiny.unet.named_modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in tiny.unet.modules()]
    with pytest.raises((Stop,RuntimeError)):
        with attention_maps(tiny.unet):
            assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in tiny.unet.modules()] != hooks
            if when=='at once': raise Stop
            if when=='in the network': predict_noise(tiny.unet, randn(1,4,8,8), 5, randn(1,5,7))
            for step in tiny.steps(prompt, num_inference_steps=4):
                if step.index==1: raise Stop
    assert [name for name,_ in tiny.unet.named_modules()] == modules
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in tiny.unet.modules()] == hooks


def test_a_run_may_go_on_when_the_recording_is_over(tiny):
    expected = [s.latents for s in tiny.steps(prompt, seed=0, num_inference_steps=4)]
    steps = tiny.steps(prompt, seed=0, num_inference_steps=4)
    with attention_maps(tiny.unet) as maps: next(steps), next(steps)
    two = maps.mean()
    assert close([s.latents for s in steps][-1], expected[-1], 1e-3)
    assert torch.equal(maps.mean(), two) and repr(maps).endswith('2 steps)')


def test_recordings_may_be_nested(tiny):
    with attention_maps(tiny.unet) as outer:
        tiny(prompt, seed=0, num_inference_steps=1)
        with attention_maps(tiny.unet) as inner: tiny(prompt, seed=1, num_inference_steps=2)
    assert repr(outer).endswith('3 steps)') and repr(inner).endswith('2 steps)')


def test_its_size_does_not_grow_with_the_steps(tiny):
    def stored(steps):
        with attention_maps(tiny.unet) as maps: tiny(prompt, seed=0, num_inference_steps=steps)
        tensors = [o for v in vars(maps).values() for o in (v.values() if isinstance(v, dict) else v if isinstance(v, tuple) else [])]
        return sum(o.nbytes for o in tensors if isinstance(o, torch.Tensor))
    assert 0 < stored(2) == stored(9)


def test_the_same_latents_twice_in_a_batch_need_a_word():
    unet,(latents,e,u,_) = unets['plain'],inputs(1)
    latents,e = latents.repeat(2,1,1,1),torch.cat([u,e])
    with attention_maps(unet, n=2) as maps: predict_noise(unet, latents, 500, e)
    assert maps.mean().shape[0] == 2
    with attention_maps(unet) as maps, pytest.raises(ValueError, match=re.escape('attention_maps(unet, n=2)')):
        predict_noise(unet, latents, 500, e)
        predict_noise(unet, latents + torch.arange(2)[:,None,None,None], 400, e)


def test_another_batch_needs_a_fresh_start(tiny):
    with attention_maps(tiny.unet) as maps:
        tiny(prompt, seed=0, num_inference_steps=2)
        with pytest.raises(ValueError, match='clear()'): tiny([prompt]*3, seed=0, num_inference_steps=2)
        maps.clear()
        with pytest.raises(RuntimeError, match='nothing is recorded'): maps.layers
        tiny([prompt]*3, seed=0, num_inference_steps=2)
    assert len(maps.mean()) == 3


def test_what_has_no_cross_attention_cannot_be_recorded():
    with pytest.raises(TypeError, match='Linear has no cross-attention'):
        with attention_maps(torch.nn.Linear(1,1)): pass


# Attention maps: what they say

def test_words_are_where_they_belong(sd):
    "Other pictures than the notebook's: the thing's word is heard on it, the background's colour off it"
    things = ['castle','house','star','umbrella']
    prompts = [f'a {c} {thing} on a {b} background' for thing in things for c,b in (('red','yellow'),('green','black'))]
    with attention_maps(sd.unet) as maps: images = sd(prompts, seed=100, num_inference_steps=8)
    x = torch.stack([torch.tensor(np.asarray(im)/255) for im in images])
    on_it = (x - x[:,0,0][:,None,None]).norm(dim=-1)>.25
    heats = torch.stack([word_maps(m, prompt_words(p, sd.tokenizer)) for m,p in zip(maps.mean((64,64)), prompts)])
    corr = torch.stack([torch.stack([torch.corrcoef(torch.stack([h.flatten(), o.flatten().float()]))[0,1] for h in heat[[2,5]]]) for heat,o in zip(heats, on_it)])
    thing,behind = corr.mean(0).tolist()
    assert thing>.5 and behind<0


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.text(max_size=30) | st.lists(st.sampled_from(['a','T-shirt','castle,','glasses','é','don\'t','12','\u2003','\x1c','<|endoftext|>','🏰','ΑΣ','\u0301'])).map(' '.join))
@example('a\u2003b\u00a0c\td\n')
def test_the_tokens_of_the_words_are_those_of_the_prompt(text):
    tokenizer = test_the_tokens_of_the_words_are_those_of_the_prompt.tokenizer
    ids = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids
    words = prompt_words(text, tokenizer)
    at = [i for _,positions in words for i in positions]
    assert at == list(range(1, len(at)+1))
    if len(ids)<tokenizer.model_max_length: assert len(at) == len(ids)-2
    for word,positions in words:
        assert [ids[i] for i in positions] == tokenizer(word).input_ids[1:-1]


@pytest.fixture(autouse=True, scope='module')
def tokenizer_for_hypothesis(sd): test_the_tokens_of_the_words_are_those_of_the_prompt.tokenizer = sd.tokenizer


def test_the_overlay_is_bright_where_the_word_is_heard():
    maps = torch.zeros(4,8,8)
    maps[2,:,:4] = maps[3,:4] = .5
    plt.close('all')
    show_attention(torch.ones(3,64,64), maps, [('left',[2]),('corner',[2,3]),('nothing',[1])])
    shown = [ax.images[0].get_array()[...,:3].mean(-1) for ax in plt.gcf().axes if ax.images]
    assert len(shown) == 4
    picture,left,corner,nothing = shown
    assert left[:,:20].min() > left[:,-20:].max() and corner[:20,:20].min() > corner[-20:,-20:].max()
    assert np.ptp(nothing) == 0
    plt.close('all')


@pytest.mark.parametrize('maps,tokens,says', [
    (torch.zeros(1,4,8,8), [('a',[1])], 'maps.mean()[0]')])
def test_maps_that_do_not_fit(maps, tokens, says):
    with pytest.raises(ValueError, match=re.escape(says)): show_attention(torch.ones(3,64,64), maps, tokens)
