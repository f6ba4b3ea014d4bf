"""What the demo ingests: photographs that ship with scikit-image, captioned and priced here, and forty texts."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

# file, caption, price of a print in euros
PHOTOS: list[tuple[str, str, float]] = [
    ("astronaut.png", "An astronaut in an orange suit smiling before a flag and a shuttle model", 45.0),
    ("brick.png", "A wall of red bricks laid in even rows", 12.0),
    ("camera.png", "A photographer with a tripod and an old film camera in a park, black and white", 30.0),
    ("cell.png", "A single living cell under a phase-contrast microscope", 18.0),
    ("chelsea.png", "A tabby cat named Chelsea looking straight at you", 25.0),
    ("clock_motion.png", "A clock face blurred by motion", 15.0),
    ("coffee.png", "A cup of espresso on a wooden table with a spoon", 22.0),
    ("coins.png", "Ancient Greek coins from Pompeii in rows on dark cloth", 28.0),
    ("grass.png", "A lawn of short grass seen from above", 9.0),
    ("gravel.png", "Grey gravel, small stones close together", 9.5),
    ("hubble_deep_field.jpg", "Thousands of distant galaxies in the Hubble deep field", 60.0),
    ("ihc.png", "Stained tissue of a colon under the microscope, brown and blue", 20.0),
    ("moon.png", "The surface of the moon with craters", 35.0),
    ("motorcycle_left.png", "A motorcycle parked in a garage full of tools", 32.0),
    ("page.png", "A printed page of a book lying in the light of a window", 11.0),
    ("retina.jpg", "The retina of a human eye with its blood vessels", 24.0),
    ("rocket.jpg", "A rocket on its launch pad before lift-off", 50.0),
    ("text.png", "Handwritten words on a rough sheet of paper", 10.0),
]

# topic, text
TEXTS: list[tuple[str, str]] = [
    ("cooking", "Fold the egg whites into the batter gently, or the soufflé will not rise."),
    ("cooking", "A pinch of salt in the water keeps boiled potatoes from tasting flat."),
    ("cooking", "Let the dough rest overnight in the fridge; the crust becomes crisp and full of flavour."),
    ("cooking", "Roast the spices in a dry pan until they smell, then grind them."),
    ("cooking", "Grind the beans just before brewing and the coffee keeps its aroma."),
    ("cooking", "Sharpen the knife before slicing tomatoes; a blunt blade crushes them."),
    ("space", "The probe slipped into orbit around Mars after a journey of seven months."),
    ("space", "A solar flare can disturb satellites and light up the polar sky."),
    ("space", "Astronauts sleep strapped to a wall, because nothing holds them down."),
    ("space", "The telescope unfolded its mirror a million miles from home."),
    ("space", "Reusable boosters land upright on a ship and fly again within weeks."),
    ("space", "Craters on the far side of the moon hide ice in permanent shadow."),
    ("gardening", "Prune the roses in early spring, just above a bud that faces outward."),
    ("gardening", "Tomato seedlings need warmth and light; harden them off before planting out."),
    ("gardening", "Compost turns kitchen scraps into dark soil within a season."),
    ("gardening", "Water the lawn in the evening so that the sun does not steal half of it."),
    ("gardening", "Marigolds between the cabbages keep many insects away."),
    ("gardening", "Cut hedges after the birds have left their nests."),
    ("medicine", "A vaccine shows the immune system a harmless picture of the enemy."),
    ("medicine", "Regular exercise lowers blood pressure about as well as one tablet."),
    ("medicine", "An eye doctor looks at the vessels of the retina to find early diabetes."),
    ("medicine", "Antibiotics do nothing against a virus such as influenza."),
    ("medicine", "A broken wrist heals in six weeks when it is kept still."),
    ("medicine", "Too little sleep makes wounds heal slowly."),
    ("music", "The cello carries the melody while the violins whisper above it."),
    ("music", "Tune the guitar to the piano, not the other way round."),
    ("music", "A good drummer plays the silence between the beats."),
    ("music", "The choir sang without accompaniment and the church fell quiet."),
    ("money", "Compound interest rewards those who begin early."),
    ("money", "An index fund spreads the risk over hundreds of companies."),
    ("money", "The bank raised its mortgage rates for the third time this year."),
    ("money", "Ancient coins are worth more when nobody has polished them."),
    ("travel", "The night train to Lisbon leaves at ten and arrives with the sunrise."),
    ("travel", "Pack light: everything you carry, you carry up the stairs."),
    ("travel", "In the old town, cats sleep on warm cars and nobody minds."),
    ("travel", "Motorcyclists love the mountain pass for its two hundred bends."),
    ("computing", "A vector database finds what is near in meaning, not what is spelled alike."),
    ("computing", "Write the test first and the bug has nowhere to hide."),
    ("computing", "The server ran out of file handles and refused new connections."),
    ("computing", "Caching is easy; knowing when to forget is hard."),
]


def photo_folder() -> Path:
    """Where scikit-image keeps its pictures; found without importing it.

    Raises:
        FileNotFoundError: scikit-image is not installed (the extra `demo` brings it).
    """
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the demo needs scikit-image: pip install 'mediatheca[demo]'")
    return Path(spec.submodule_search_locations[0]) / "data"
