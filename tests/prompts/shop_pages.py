"""Turns in a small shop, by hand, in the environment's words."""

from gigpo_lightning.prompts.base import TurnView

INSTRUCTION = (
    "Find me slim fit rain jackets for daily wear with color: blue, and size: small, and price lower than 50.00 dollars"
)
INDEX = "'Search'"
RESULTS = (
    "'Back to Search' [SEP] 'Page 1 (Total results: 50)' [SEP] 'Next >' [SEP] "
    "'B000000001' [SEP] 'Alder Slim Fit Rain Jackets' [SEP] '$19.99' [SEP] "
    "'B000000002' [SEP] 'Elvet's Daily Wear Slim Fit Rain Jackets' [SEP] '$29.99 to $45.5'"
)
ITEM = (
    "'Back to Search' [SEP] '< Prev' [SEP] 'color' [SEP] 'blue' [SEP] 'red' [SEP] 'size' [SEP] 'small' [SEP] "
    "'x-large' [SEP] 'Elvet's Daily Wear Slim Fit Rain Jackets' [SEP] 'Price: $29.99 to $45.5' [SEP] "
    "'Rating: N.A.' [SEP] 'Description' [SEP] 'Features' [SEP] 'Reviews' [SEP] 'Buy Now'"
)
FEATURES = "'Back to Search' [SEP] '< Prev' [SEP] 'A jacket for daily wear.'"

SEARCH = "search[<your query>]"
ON_INDEX = (SEARCH,)
ON_RESULTS = ("click[back to search]", "click[next >]", "click[b000000001]", "click[b000000002]")
ON_ITEM = (
    *("click[back to search]", "click[< prev]", "click[description]", "click[features]", "click[reviews]"),
    *("click[buy now]", "click[blue]", "click[red]", "click[small]", "click[x-large]"),
)
ON_FEATURES = ("click[back to search]", "click[< prev]")

QUERY = "search[slim fit rain jackets daily wear color blue size small]"


def turn(observation: str, offered: tuple[str, ...] | None, *history: tuple[str, str]) -> TurnView:
    return TurnView(
        instruction=INSTRUCTION, observation=observation, admissible_actions=offered, history=tuple(history)
    )


FIRST = turn(INDEX, ON_INDEX)
FOUND = turn(RESULTS, ON_RESULTS, (INDEX, QUERY))
FOUND_AGAIN = turn(
    RESULTS, ON_RESULTS, (INDEX, QUERY), (RESULTS, "click[b000000001]"), (ITEM, "click[blue]"), (ITEM, "click[< prev]")
)
OPENED = turn(ITEM, ON_ITEM, (INDEX, QUERY), (RESULTS, "click[b000000002]"))
CHOSEN = turn(
    ITEM, ON_ITEM, *FOUND_AGAIN.history, (RESULTS, "click[b000000002]"), (ITEM, "click[small]"), (ITEM, "fly")
)
READ = turn(FEATURES, ON_FEATURES, (INDEX, QUERY), (RESULTS, "click[b000000002]"), (ITEM, "click[features]"))
