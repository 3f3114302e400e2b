"""Words to spell, sort and reverse: everyday ones, made-up ones, and plain strings of letters."""

from __future__ import annotations

from random import Random

_EVERYDAY = """
able about above accept across action active actor advice afraid after again agree air airport
album alone always amber ancient angel anger animal ankle answer anyone apart apple april apricot
arch area argue arm army around arrow art artist asleep atlas attic august aunt autumn avocado
away baby back bacon badge bag baker balance ball balloon bamboo banana band bank barber bark barn
basin basket bath battery beach bean bear beauty because bed bee beer beetle before begin behind
bell belt bench berry best better between bicycle bird biscuit bitter black blanket blood blue
board boat body bone bonus book bookkeeper boot border boss bottle bottom bowl box brain branch
bread breakfast bridge bright broken brother brown brush bubble bucket budget building burger
butter butterfly button cabbage cabin cable cactus cake calendar camera camp canal candle candy
canoe captain car card careful carpet carrot castle cat cattle cave ceiling celery cellar cement
center chair chalk chance change cheese cherry chess chest chicken child chimney chocolate choice
church circle city class clay clean clever cliff climb clock cloud clover coach coal coast coat
cobra coconut coffee coin cold collar color comet comfort committee common compass computer copper
coral corn corner cotton couch country courage cousin cow crab cracker cradle crane crayon cream
creek cricket crocodile crown crystal cucumber cup curtain custom dance danger dark daughter day
decide deep deer delight dentist desert design desk detail diamond dinner dinosaur dirty doctor
dog doll dolphin donkey door double dragon drawer dream dress drink drum duck dust eagle ear early
earth east easy echo edge effort egg eight elbow elephant eleven embarrass empty engine enough
entire equal error evening every exact example exit expect eye fabric face fact factory fair
family famous farm farmer father feather fence ferry fever field fifteen fig finger finish fire
first fish flag flame flavor flood floor flower flute fog follow food forest fork forty fossil
four fox free friday friend frog frost fruit funny future galaxy game garage garden garlic gate
gentle ghost giant ginger giraffe glass globe glove goat gold good goose grain grandmother grape
grass gravel green grocery ground group guitar hair half hammer hamster hand happy harbor hard
harvest hat hawk head heart heavy hedge height hello helmet hero hill history hobby hockey holiday
honest honey hope horse hospital hotel hour house human hundred hungry hunter ice idea important
island ivory ivy jacket jaguar jam january jar jazz jelly jewel job join joke journey joy judge
juice july jump june jungle kangaroo keep kettle key kidney kind king kiosk kitchen kite kitten
kiwi knee knife knight knot ladder lake lamp language lantern large laugh lawn layer lazy leader
leaf learn leather lemon leopard lesson letter level library light lily lime line lion list listen
little lizard lobster logic long lotus loud love lucky lunch machine magic magnet mango map maple
marble march market marmalade mask meadow meal medicine melon memory message metal middle milk
million mint minute mirror mississippi mitten model monday money monkey month moon morning
mosquito mother motor mountain mouse mouth muffin museum mushroom music mustard nail name napkin
narrow nature near neck necklace needle nephew nest never new next night nine noise noodle north
nose notebook nothing november number nurse nut oak oasis oats occasion ocean october octopus
office olive omelet one onion open orange orbit orchard orchid ostrich other otter oven owl oyster
paddle page paint palace palm pancake panda panther papaya paper parade parent park parrot party
passenger pasta path peace peach peacock peanut pear pearl pebble pelican pencil penguin people
pepper perfect phone piano picnic picture piece pig pigeon pillow pilot pine pink pirate pizza
planet plant plastic plate play plum pocket poem point pond pony poppy popular possession possible
potato powder present pretty price prince problem programming promise pumpkin puppy purple puzzle
queen question quick quiet quilt rabbit raccoon radio rain rainbow raspberry raven ready reason
rebel recipe red referee remember rhythm ribbon rice ring river road robin robot rock rocket roof
room root rose rubber rug saddle safe sail salad salmon salt sand sandwich saturday sauce school
science scissors scooter sea season secret seed september seven shadow shape shark sheep shelf
shell ship shirt shoe short shoulder silence silk silver simple sister six skate sky sleep slow
small smile smoke snail snake snow soap soccer sock sofa soft soldier song soup south space spade
sparrow spider spinach spoon spring square squirrel star station statue stone storm story
strawberry street strong student success sugar summer sun sunday sunset sweater swim table tailor
tall tea teacher ten tennis tent thank theater thing think thirteen thousand three thumb thunder
thursday ticket tiger timber tired toast today together tomato tomorrow tongue tooth tortoise
towel tower town toy tractor train travel tree triangle truck trumpet tulip tunnel turkey turtle
twelve twenty twice two umbrella uncle under uniform universe unusual upper useful valley vanilla
vegetable velvet village violet violin visit voice volcano vulture wagon waiter walk wallet walnut
warm wasp watch water watermelon wave weather wednesday week weekend welcome west whale wheat
wheel whisper whistle white wife window winter wise wizard wolf woman wonder wood wool word work
world worm yacht yellow yesterday yogurt young zebra zero zigzag zipper zoo abacus accommodation
algorithm assess banjo bazaar broccoli cappuccino coffeehouse cookie dessert google llama mlx
onomatopoeia parallel pneumonia python quartz queue quiz refrigerator renaissance sequoia tattoo
tokenizer transformer vacuum xylophone
"""
EVERYDAY = tuple(dict.fromkeys(_EVERYDAY.split()))

_SYLLABLES = """
b c d f g h j k l m n p qu r s t v w z bl br ch cl cr dr fl fr gl gr pl pr sc sh sk sl sm sn sp st
str sw th tr tw wh
a e i o u a e i o u ai ea ee oo ou ie oa y
b ck d f g l ll m n ng nt p r rd rk rm rn s ss st t th x tch er el le ing ed ly
"""
_ROWS = [line.split() for line in _SYLLABLES.strip().split("\n")]
_STARTS, _MIDDLES, _ENDS = _ROWS[0] + _ROWS[1], _ROWS[2], _ROWS[3]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def made_up(rng: Random) -> str:
    """A word that could exist, of one to three syllables."""
    parts: list[str] = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        parts += (rng.choice(_STARTS), rng.choice(_MIDDLES))
        if rng.random() < 0.55:
            parts.append(rng.choice(_ENDS))
    return "".join(parts)[:14]


def letters(rng: Random) -> str:
    """Three to ten letters; few different ones, half of the time, so that some repeat."""
    alphabet = _LETTERS if rng.random() < 0.5 else rng.sample(_LETTERS, rng.randint(2, 5))
    return "".join(rng.choices(alphabet, k=rng.randint(3, 10)))


def joined(rng: Random) -> str:
    """Two everyday words in one, or a piece of one: spellings that cut words anywhere."""
    first, second = rng.choice(EVERYDAY), rng.choice(EVERYDAY)
    if rng.random() < 0.5 and len(first) + len(second) <= 14:
        return first + second
    start = rng.randrange(len(first))
    return (first[start:] + second)[: rng.randint(4, 12)]


def any_word(rng: Random) -> str:
    """A lower-case word of one of the four kinds, at least two letters long."""
    while True:
        make = rng.choices((everyday, made_up, letters, joined), (45, 22, 15, 18))[0]
        word = make(rng)
        if len(word) > 1:
            return word


def everyday(rng: Random) -> str:
    """A word from the list."""
    return rng.choice(EVERYDAY)
