"""Words for the things of COCO's 80 classes, and their singulars: what CHAIR looks for in captions.

The list of words is this project's own. One that was published with CHAIR can take its place: `chair.official_words`.
"""

CLASSES = {
    "person": "man woman boy girl child kid baby toddler infant lady gentleman guy adult teenager people player rider "
    "skier snowboarder skateboarder surfer batter pitcher catcher umpire cyclist pedestrian passenger driver worker "
    "officer policeman chef waiter farmer soldier student teacher tourist bride groom mother father",
    "bicycle": "bike tricycle unicycle",
    "car": "automobile sedan suv taxi cab jeep van minivan convertible limousine",
    "motorcycle": "motorbike scooter moped",
    "airplane": "plane aeroplane jet aircraft airliner biplane",
    "bus": "minibus coach",
    "train": "locomotive tram subway",
    "truck": "lorry pickup firetruck",
    "boat": "ship sailboat canoe kayak ferry yacht rowboat raft dinghy gondola",
    "traffic light": "stoplight,traffic signal,stop light",
    "fire hydrant": "hydrant",
    "stop sign": "",
    "parking meter": "",
    "bench": "pew",
    "bird": "seagull gull duck goose pigeon owl parrot eagle swan sparrow crow hen rooster chicken flamingo pelican",
    "cat": "kitten kitty",
    "dog": "puppy hound poodle terrier bulldog retriever",
    "horse": "pony foal stallion mare",
    "sheep": "lamb ram ewe",
    "cow": "cattle bull calf ox",
    "elephant": "",
    "bear": "panda,polar bear",
    "zebra": "",
    "giraffe": "",
    "backpack": "rucksack knapsack",
    "umbrella": "parasol",
    "handbag": "purse",
    "tie": "necktie,bow tie",
    "suitcase": "luggage,suit case",
    "frisbee": "",
    "skis": "ski",
    "snowboard": "",
    "sports ball": "ball football basketball baseball,soccer ball,tennis ball",
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "mitt",
    "skateboard": "",
    "surfboard": "",
    "tennis racket": "racket racquet",
    "bottle": "",
    "wine glass": "wineglass",
    "cup": "mug teacup",
    "fork": "",
    "knife": "",
    "spoon": "",
    "bowl": "",
    "banana": "",
    "apple": "",
    "sandwich": "burger hamburger cheeseburger",
    "orange": "",
    "broccoli": "",
    "carrot": "",
    "hot dog": "hotdog",
    "pizza": "",
    "donut": "doughnut",
    "cake": "cupcake cheesecake",
    "chair": "armchair stool",
    "couch": "sofa loveseat",
    "potted plant": "houseplant",
    "bed": "",
    "dining table": "table desk",
    "toilet": "urinal,toilet seat",
    "tv": "television,tv screen",
    "laptop": "notebook,laptop computer",
    "mouse": "",
    "remote": "remote control",
    "keyboard": "",
    "cell phone": "cellphone smartphone telephone phone,mobile phone",
    "microwave": "",
    "oven": "stove",
    "toaster": "",
    "sink": "washbasin",
    "refrigerator": "fridge freezer",
    "book": "",
    "clock": "",
    "vase": "",
    "scissors": "",
    "teddy bear": "teddy",
    "hair drier": "hairdryer,hair dryer",
    "toothbrush": "",
}
YOUNG = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")  # "baby elephant"
NOTHING = (
    "home plate,train track,train station,bus stop,bear in mind,orange juice,table tennis,baseball field,"
    "baseball game,baseball player,tennis player,mouse pad,bed spread"
)
SAYS_PERSON = {"baseball player", "tennis player"}

IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "persons": "person", "feet": "foot",
    "teeth": "tooth", "geese": "goose", "mice": "mouse", "oxen": "ox", "knives": "knife", "wolves": "wolf",
    "calves": "calf", "shelves": "shelf", "leaves": "leaf", "loaves": "loaf", "halves": "half", "lives": "life",
    "wives": "wife", "scarves": "scarf", "buses": "bus", "gases": "gas", "lenses": "lens", "potatoes": "potato",
    "tomatoes": "tomato", "heroes": "hero", "policemen": "policeman", "gentlemen": "gentleman",
    "snowmen": "snowman", "firemen": "fireman", "fishermen": "fisherman", "cookies": "cookie", "movies": "movie",
    "ties": "tie", "neckties": "necktie", "pies": "pie", "zombies": "zombie", "hoodies": "hoodie", "selfies": "selfie",
    "shoes": "shoe", "canoes": "canoe", "toes": "toe", "axes": "axe", "vases": "vase", "cases": "case", "bases": "base",
    "suitcases": "suitcase", "houses": "house", "horses": "horse", "nurses": "nurse", "purses": "purse",
    "noses": "nose", "roses": "rose", "hoses": "hose", "pauses": "pause", "phases": "phase", "phrases": "phrase",
    "sizes": "size", "prizes": "prize", "breezes": "breeze",
}  # fmt: skip
SAME = (
    "across always as binoculars bus cactus campus canvas chaos gas has his is its jeans lens news octopus pants "
    "perhaps plus scissors series sheep shorts skis species tennis this tongs trousers us walrus was yes"
)
