"""The colours that WebShop knows, and how it takes a value for one of them."""

from functools import lru_cache

# The words of the original's engine/normalize.py (two public copies of it agree); their order decides.
_WORDS = """
alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo caramel
champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal dark denim
eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo ivory ivy khaki
lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor mushroom mustard
natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand sapphire seashell silver
skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut wheat white wine yellow
"""
COLOURS = tuple(_WORDS.split())


@lru_cache(maxsize=1 << 14)
def plain_colour(value: str) -> str:
    """Replace a value by the first of ``COLOURS`` that is contained in it, even inside a word; else leave it alone.

    The original does this to values of every option, so a size may become a colour.

    Example:
        >>> plain_colour("navy blue"), plain_colour("titanium"), plain_colour("standard"), plain_colour("x-large")
        ('blue', 'tan', 'tan', 'x-large')
    """
    return next((colour for colour in COLOURS if colour in value), value)
