"What `miniai.callbacks` promises beyond its notebook: records, previews and early stops with every scheduler, and an explorer that listens"
import base64, io
from unittest.mock import Mock

import diffusers, numpy as np, pytest, torch
from PIL import Image

from miniai.callbacks import *
from miniai.core import *
from miniai.pipeline import *
from miniai.vae import image_psnr

prompt = 'a red house on a yellow background'
pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')


def difference(a, b):
    "The largest difference of two lists of pictures, in 1/255"
    return max(np.abs(np.asarray(x).astype(int) - np.asarray(y)).max() for x,y in zip(a, b, strict=True))


# Callbacks

def test_the_parts_are_shared_and_the_pipeline_is_left_alone(sd):
    class Own(StableDiffusion): pass
    other = with_parts(Own(**vars(sd)), scheduler=3, callbacks=[print])
    assert type(other) is Own and other.unet is sd.unet and other.scheduler==3 and other.callbacks==[print] and sd.callbacks==() and sd.scheduler!=3
    with pytest.raises(TypeError, match='u_net'): with_parts(sd, u_net=3)


def test_a_record_keeps_steps_as_they_were_when_it_saw_them(tiny):
    before,after = Record(),Record()
    with_parts(tiny, callbacks=[before, GuidanceSchedule(lambda done: 10*done), after])(prompt, num_inference_steps=4, guidance_scale=2)
    assert [s.guidance_scale for s in before]==[2,2.5,5,7.5] and [s.guidance_scale for s in after]==[2.5,5,7.5,10]


def test_a_schedule_that_stays_the_same_changes_nothing(tiny):
    args = dict(seed=0, num_inference_steps=5, guidance_scale=3)
    assert difference(with_parts(tiny, callbacks=[GuidanceSchedule(lambda done: 3)])(prompt, **args), tiny(prompt, **args)) <= 1


def test_a_run_stops_early_near_its_end(sd):
    "Of the embedded model: the picture that it's heading for no longer changes"
    record,args = Record(),dict(seed=0, num_inference_steps=20, guidance_scale=3)
    early = with_parts(sd, callbacks=[EarlyStop(.05), record])(prompt, **args)
    assert 5 < len(record) <= 20 and image_psnr(early[0], sd(prompt, **args)[0]) > 20


@pytest.mark.parametrize('name', ['DDIM','Euler','LMS','DDPM','Euler ancestral','PNDM','DPM++ 2M'])
def test_early_stop_works_with_every_scheduler(tiny, name):
    own,record = with_parts(tiny, scheduler=schedulers[name].from_config(tiny.scheduler.config)),Record()
    for tolerance,steps in (float('inf'),5), (0,None): # Patience is four steps of no change
        with_parts(own, callbacks=[EarlyStop(tolerance), record])(prompt, seed=0, num_inference_steps=8)
        assert len(record) == (steps or len(own.scheduler.timesteps))


def test_early_stop_waits_for_the_whole_batch_and_starts_afresh():
    "Pictures that stand still from their second and from their fourth step on"
    class Steps:
        def __init__(self, *still): self.still = torch.tensor(still)
        def length(self, stop):
            for i in range(20):
                moved = torch.minimum(torch.tensor(i), self.still)
                step = Step(i, None, None, None, pred_original_sample=1. + moved[:,None])
                stop(step)
                if step.stop: return i+1
    stop = EarlyStop(.03)
    assert [Steps(*still).length(stop) for still in ([2],[4],[2,4],[2])] == [7,9,9,7]


def test_early_stop_needs_a_scheduler_that_tells(tiny):
    library = diffusers.PNDMScheduler.from_config({**tiny.scheduler.config, 'skip_prk_steps':True})
    with pytest.raises(ValueError, match='EarlyStop.*pred_original_sample'): with_parts(tiny, scheduler=library, callbacks=[EarlyStop()])(prompt, num_inference_steps=3)


@pytest.mark.parametrize('every,n,count', [(1,5,5), (5,11,3), (5,12,4), (100,3,2)])
def test_previews_come_as_often_as_asked_and_at_the_end(tiny, every, n, count):
    seen = []
    images = with_parts(tiny, callbacks=[Preview(tiny.vae, every, seen.append)])([prompt]*2, num_inference_steps=n, seed=0)
    assert len(seen)==count and seen[0].size==(2*64+2,64)
    assert difference([seen[-1].crop((0,0,64,64))], images[:1]) < 40


def test_each_run_is_shown_in_a_place_of_its_own(tiny, monkeypatch):
    "Also after a run that something else has stopped"
    shown = []
    monkeypatch.setattr('miniai.callbacks.in_notebook', lambda: True)
    monkeypatch.setattr('IPython.display.display', lambda *args, **kwargs: shown.append(Mock()) or shown[-1])
    def stop(step): step.stop = step.index==1
    sd = with_parts(tiny, callbacks=[Preview(tiny.vae, every=1), stop])
    for _ in range(2): sd(prompt, num_inference_steps=4)
    assert [o.update.call_count for o in shown]==[1,1]

def test_outside_a_notebook_a_preview_shows_nothing(tiny, capsys):
    with_parts(tiny, callbacks=[Preview(tiny.vae)])(prompt, num_inference_steps=2)
    assert capsys.readouterr() == ('','')


# The explorer

@pytest.fixture
def explorer(tiny): return explore(tiny, num_inference_steps=2)

def png(explorer): return Image.open(io.BytesIO(explorer.picture.value))

def test_it_draws_what_the_pipeline_draws(tiny, explorer):
    plain = with_parts(tiny, scheduler=schedulers['DDIM'].from_config(tiny.scheduler.config))
    args = {k:v.value for k,v in explorer.controls.items() if k!='scheduler'}
    assert explorer.status.value=='done' and difference([explorer.image], plain(**args)) <= 1
    assert png(explorer).size==(256,256)


@pytest.mark.parametrize('name,value', [('prompt','a green ghost on a black background'), ('negative_prompt','a red house'), ('guidance_scale',2.),
    ('num_inference_steps',3), ('seed',7), ('scheduler','Euler ancestral')])
def test_every_control_changes_the_picture(explorer, name, value):
    before = explorer.image
    explorer.controls[name].value = value
    assert explorer.status.value=='done'
    assert difference([before], [explorer.image]) > 1


@pytest.mark.parametrize('name', list(schedulers))
def test_every_scheduler_of_the_list_draws(explorer, name):
    explorer.controls['scheduler'].value = name
    assert explorer.status.value=='done'


def test_the_picture_appears_step_by_step(tiny, explorer):
    seen = []
    explorer.picture.observe(lambda change: seen.append(change['new']), 'value')
    explorer.status.observe(lambda change: seen.append(change['new']), 'value')
    explorer.controls['num_inference_steps'].value = 5
    assert [s for s in seen if isinstance(s, str)] == [*(f'step {i} of 5' for i in range(1,6)), 'done']
    assert len({bytes(s) for s in seen if not isinstance(s, str)}) >= 4


def test_a_text_counts_when_it_is_complete(explorer):
    "Not at every letter: the kernel draws, and can't listen meanwhile"
    assert all(not c.continuous_update for name,c in explorer.controls.items() if name!='scheduler')


def test_a_mistake_is_shown_and_the_next_run_works(explorer, tiny):
    explorer.sd = with_parts(tiny, callbacks=[lambda step: 1/0])
    explorer.draw()
    assert 'ZeroDivisionError' in explorer.status.value
    explorer.sd = tiny
    explorer.draw()
    assert explorer.status.value=='done'


def test_it_says_which_words_the_model_has_never_seen(sd):
    explorer = explore(sd, 'a spoon', num_inference_steps=1)
    assert explorer.status.value.startswith('done; ') and "never seen 'spoon'" in explorer.status.value


def test_it_leaves_the_pipeline_alone(tiny, explorer):
    tiny.scheduler.set_timesteps(17)
    explorer.controls['seed'].value = 9
    assert len(tiny.scheduler.timesteps)==17


def test_the_widget_is_found_by_its_names(explorer):
    labels = [c.description for c in explorer.controls.values()]
    assert labels == ['prompt','negative prompt','guidance','steps','seed','scheduler']
    assert all(f"miniai-{name.replace('_','-')}" in c._dom_classes for name,c in explorer.controls.items())
    assert 'miniai-picture' in explorer.picture._dom_classes and 'miniai-explorer' in explorer.widget._dom_classes


def test_a_page_without_widgets_has_a_picture(explorer):
    bundle = explorer._repr_mimebundle_()
    assert 'application/vnd.jupyter.widget-view+json' in bundle
    assert Image.open(io.BytesIO(base64.b64decode(bundle['image/png']))).size == (256,256)


def test_an_unknown_scheduler_is_refused(tiny):
    with pytest.raises(Exception, match='Invalid selection'): explore(tiny, scheduler='Heun')
