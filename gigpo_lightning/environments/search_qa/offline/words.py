"""The words of the invented world: few enough for tokenizers with one token a word."""


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


FIRST_NAMES = _listed(
    "ada bela cleo dario edda fenno greta hugo ilse jaro kaia lars mila nuno orla pavel quin runa silas tova"
    " ulf vera wanda yaro zita arno"
)
SURNAMES = _listed(
    "abrand bexley corvin dahl ekberg farrow gant hollis ivers jorund kestrel lomax marlow norring osgood pryce"
    " quell rask sorby torv undset vantor wexley yarrow zeller ambrus brandt calder drummond elwood"
)
TOWNS = _listed(
    "aldmere brankford carrow dunholt elmsted fairwick grenhaven hartsby inverlea jarrowby kingsmoor lindale"
    " marstow nordby ostwick penhollow quarley ravensby stanmere thornby upwell varnholt westerby yelverton"
    " ashcombe birchley coldmoor deepford eastholm farley"
)
REGIONS = _listed("argenland borovia calmere dravonia esterland falmark gothmar highreach")
TRADES = _listed("baker botanist carpenter chemist cook miller painter pilot sailor weaver")
ADJECTIVES = _listed(
    "amber broken crimson distant endless frozen golden hidden ivory jagged last narrow pale quiet restless silver"
    " silent velvet wandering winter"
)
NOUNS = _listed(
    "anchor bridge compass door ember feather garden harbour island key lantern meadow mirror orchard ribbon river"
    " shadow tower valley window"
)
_SENTENCES = (
    "a an and author born by in is me name novel of region tell the town trade was what where which who whose work"
    " works worked write writer written wrote as did do come from lies can be found no passage search failed"
)


def search_qa_words() -> tuple[str, ...]:
    """Lower-case words of the invented world's questions, passages and answers, sorted; no punctuation."""
    named = (*FIRST_NAMES, *SURNAMES, *TOWNS, *REGIONS, *TRADES, *ADJECTIVES, *NOUNS)
    return tuple(sorted({*named, *_SENTENCES.split()}))
