"""Our tokenizer and the library's side by side, alternating, in one process, and our training beside what made the embedded vocabulary.

    python benchmarks/tokenizer.py [--model FOLDER] [--rounds 15] [--save]

Times: texts one at a time and all in one call, as the pipeline calls it (padded, cut, tensors); with words that were met before, with an empty
memory of words, and with words of random letters. The ratio is the library's processor time over ours, the best of each one's turns: above 1, ours
is faster. (On a machine that is busy with other things the best is to be trusted most.)
Training: the words of all captions are counted, and a vocabulary learned from the captions is compared with the embedded one. `--save` keeps it
all for the notebook, the times of other vocabularies beside those of the embedded one."""
import json, os, platform, random, time
from collections import Counter
from pathlib import Path
from statistics import median

import torch, transformers
from fastcore.script import call_parse
from transformers import CLIPTokenizer

from miniai.core import embedded_model, measured, save_measured
from miniai.tokenizer import *
from miniai.training import all_captions

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)
os.environ['TOKENIZERS_PARALLELISM'] = 'false'


def cpu():
    "What the processor is called"
    try: return next(line.split(':')[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name'))
    except (OSError,StopIteration): return platform.processor() or platform.machine()


def seconds(f):
    "Processor time of `f`"
    start = time.process_time()
    f()
    return time.process_time() - start


def forgetful(tokenizer, f):
    "`f` with a tokenizer that has met no word yet"
    def run():
        tokenizer._known.clear()
        f()
    return run


def random_letters(n):
    "Texts of about as many letters as captions have, in words that nobody has met"
    rng = random.Random(0)
    return [''.join(rng.choice('abcdefghijklmnopqrstuvwxyz ') for _ in range(50)) for _ in range(n)]


def speeds(ours, library, prompts, rounds):
    "Microseconds a text: best, median and worst of the rounds, and the ratio of the best"
    odd = random_letters(len(prompts))
    assert ours(odd).input_ids==library(odd).input_ids
    call = dict(padding='max_length', truncation=True, max_length=library.model_max_length, return_tensors='pt')
    one = lambda t: lambda: [t([o], **call) for o in prompts]
    whole = lambda t: lambda: t(prompts, **call)
    strange = lambda t: lambda: t(odd, **call)
    pairs = {'one at a time':(one(ours), one(library)), 'all in one call':(whole(ours), whole(library)),
             'all in one call, words not met before':(forgetful(ours, whole(ours)), whole(library)),
             'the same with words of random letters':(forgetful(ours, strange(ours)), strange(library))}
    found = {}
    for name,(mine,theirs) in pairs.items():
        mine(), theirs()
        times = [[seconds(f)/len(prompts)*1e6 for f in ((mine,theirs) if i%2 else (theirs,mine))][::1 if i%2 else -1] for i in range(rounds)]
        a,b = ([round(f(o), 1) for f in (min,median,max)] for o in zip(*times))
        found[name] = dict(ours=a, library=b, ratio=round(b[0]/a[0], 2))
    return found


def training():
    "The words of the captions, and our vocabulary beside the embedded one"
    words = Counter(o for text in all_captions for o in split_words(uniform(text)))
    learned,shipped = train_bpe(all_captions, 5000, model_max_length=24),BPETokenizer.from_pretrained(embedded_model())
    order = lambda t: sorted(t.merges, key=t.merges.get)
    names = lambda t: [' '.join(map(t.tokens.get, o)) for o in order(t)]
    a,b = names(learned),names(shipped)
    return dict(captions=len(all_captions), words=dict(words.most_common()), tokens=len(learned),
                same_tokens=learned.vocab.keys()==shipped.vocab.keys(), merges=len(a), places_with_another_merge=[(i,x,y) for i,(x,y) in enumerate(zip(a, b)) if x!=y],
                captions_cut_alike=sum(learned.tokenize(o)==shipped.tokenize(o) for o in all_captions))


@call_parse
def main(
    model:str=None, # Folder of a model; without it, the embedded one
    rounds:int=15, # How often each tokenizer does the work
    save:bool=False, # Keep the results for the notebook?
):
    "Time our tokenizer and the library's, and compare the vocabularies"
    folder = Path(model or embedded_model())/'tokenizer'
    ours,library = BPETokenizer.from_pretrained(folder),CLIPTokenizer.from_pretrained(folder)
    prompts = all_captions[::3]
    assert ours(prompts).input_ids==library(prompts).input_ids
    start = [seconds(lambda: cls.from_pretrained(folder)) for cls in (BPETokenizer,CLIPTokenizer)]
    machine = f'one core of an {cpu()}, 1 thread; Python {platform.python_version()}, transformers {transformers.__version__}'
    timed = dict(machine=machine, rounds=rounds, texts=len(prompts), speeds=speeds(ours, library, prompts, rounds),
                 seconds_to_load=dict(zip(('ours','library'), start)))
    learned = training()
    print(json.dumps({**timed, **learned, 'words':len(learned['words'])}, indent=1))
    if not save: return
    try: known = measured('tokenizer')['vocabularies']
    except FileNotFoundError: known = {}
    save_measured('tokenizer', dict(vocabularies={**known, str(len(ours)):timed}, training=learned))
