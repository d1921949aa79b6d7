"""Titles of invented films whose words betray their topic, as real titles do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FIRST_YEAR, LAST_YEAR = 1950, 2025


@dataclass(frozen=True)
class Topic:
    """The words of one topic and the ways to put them together."""

    name: str
    patterns: tuple[str, ...]
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    places: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


TOPICS = (
    Topic(
        "space",
        _words(
            "The {a} {n}, Mission to {p}, The {n} from {p}, The {a} {n} of {p}, Voyage to {p}, "
            "Escape from {p}, The {n} Beyond {p}"
        ),
        _words("Interstellar, Alien, Galactic, Orbiting, Frozen, Cosmic, Lost, Last, Distant"),
        _words(
            "Starship, Astronaut, Space Station, Asteroid, Comet, Planet, Rocket, Moon Base, "
            "Galaxy, Android, Spacewalk, Nebula"
        ),
        _words(
            "Mars, Saturn, Jupiter, Andromeda, the Moon, Neptune, Europa, Titan, Orion, "
            "the Milky Way, Alpha Centauri"
        ),
    ),
    Topic(
        "western",
        _words(
            "The {a} {n}, {n} of {p}, Showdown at {p}, The {a} {n} of {p}, Ride to {p}, "
            "Guns over {p}, One {n} for {p}"
        ),
        _words("Lonesome, Dusty, Outlaw, Hired, Wanted, Silver, Last, Lost, Prairie"),
        _words(
            "Gunslinger, Sheriff, Cowboy, Stagecoach, Rancher, Saddle, Bounty Hunter, Marshal, "
            "Posse, Six-Shooter, Cattle Drive, Mustang"
        ),
        _words(
            "Dodge City, Tombstone, Laredo, the Rio Grande, Abilene, Cheyenne, El Paso, "
            "Dry Gulch, Santa Fe, Deadwood"
        ),
    ),
    Topic(
        "horror",
        _words(
            "The {a} {n}, {n} of {p}, Curse of {p}, The {a} {n} of {p}, The Haunting of {p}, "
            "Night of the {n}, Evil at {p}"
        ),
        _words("Screaming, Cursed, Undead, Bloody, Haunted, Demonic, Last, Lost, Rotting"),
        _words(
            "Vampire, Werewolf, Zombie, Poltergeist, Corpse, Graveyard, Exorcist, Witch, "
            "Ghoul, Coffin, Slasher, Mummy"
        ),
        _words(
            "Blackwood Manor, the Crypt, Ravenscroft Asylum, the Old Cemetery, Hollow Grave, "
            "Castle Dracula, the Morgue, Devil's Cellar, Hell House, Bloodmoor"
        ),
    ),
    Topic(
        "romance",
        _words(
            "The {a} {n}, {n} in {p}, Falling in Love in {p}, My {a} {n}, The {n} I Promised You, "
            "Kisses from {p}, Her {a} {n}"
        ),
        _words("Blushing, Sweet, Tender, Secret, Lovesick, Romantic, Last, Lost, Darling"),
        _words(
            "Wedding, Bride, Love Letter, Sweetheart, First Kiss, Honeymoon, Bouquet, Proposal, "
            "Love Affair, Bridesmaid, Valentine, Engagement Ring"
        ),
        _words(
            "Paris, Venice, Tuscany, Notting Hill, Verona, Provence, Vienna, Manhattan, "
            "the Rose Garden, Capri"
        ),
    ),
    Topic(
        "war",
        _words(
            "The {a} {n}, {n} at {p}, The Battle of {p}, The {a} {n} of {p}, Bombs over {p}, "
            "Siege of {p}, {n} to {p}"
        ),
        _words("Fallen, Armored, Wounded, Fighting, Captured, Airborne, Last, Lost, Decorated"),
        _words(
            "Platoon, Battalion, Soldier, Regiment, Sniper, Tank Commander, Paratrooper, "
            "Brigade, General, Infantry, Submarine, Prisoner of War"
        ),
        _words(
            "Normandy, Stalingrad, Iwo Jima, Dunkirk, Verdun, Khe Sanh, the Somme, Arnhem, "
            "Guadalcanal, the Western Front"
        ),
    ),
    Topic(
        "animals",
        _words(
            "The {a} {n}, {n} of {p}, The Little {n}, The {a} {n} of {p}, Little {n} in {p}, "
            "{n} Goes to {p}, My Friend the {n}"
        ),
        _words("Furry, Clumsy, Playful, Barking, Talking, Fluffy, Last, Lost, Curious"),
        _words(
            "Puppy, Kitten, Pony, Penguin, Bunny, Bear Cub, Duckling, Hamster, Otter, Piglet, "
            "Elephant, Squirrel"
        ),
        _words(
            "the Zoo, Sunny Farm, the Barnyard, the Petting Zoo, Honey Meadow, the Jungle, "
            "Maple Forest, the Animal Shelter, the Pond, the Kennel"
        ),
    ),
    Topic(
        "sport",
        _words(
            "The {a} {n}, {n} of {p}, Champions of {p}, The {a} {n} of {p}, Road to {p}, "
            "Knockout in {p}, One More {n}"
        ),
        _words(
            "Winning, Undefeated, Overtime, Rookie, Championship, Heavyweight, Last, Lost, Underdog"
        ),
        _words(
            "Quarterback, Boxer, Home Run, Goalkeeper, Touchdown, Coach, Marathon, Pitcher, "
            "Hockey Team, Basketball Season, Slam Dunk, Penalty Kick"
        ),
        _words(
            "the World Series, Wembley, the Super Bowl, the Olympics, Wimbledon, the Locker Room, "
            "the Final Four, Madison Square Garden, the Stadium, the World Cup"
        ),
    ),
    Topic(
        "crime",
        _words(
            "The {a} {n}, {n} of {p}, The {p} Murders, The {a} {n} of {p}, Heist in {p}, "
            "Detective in {p}, The {n} Case"
        ),
        _words("Crooked, Corrupt, Murdered, Stolen, Guilty, Undercover, Last, Lost, Forged"),
        _words(
            "Detective, Mobster, Bank Robbery, Hitman, Gangster, Informant, Jury, Alibi, "
            "Forger, Witness, Homicide, Safecracker"
        ),
        _words(
            "Chicago, Brooklyn, Alcatraz, Las Vegas, Scotland Yard, Little Italy, Baker Street, "
            "the Courthouse, the Precinct, Miami"
        ),
    ),
)


def titles(topic_of_item: np.ndarray, rng: np.random.Generator) -> list[str]:
    """A title for each item, all different: "Mission to Saturn (1987)".

    Args:
        topic_of_item: (n_items,) int, places in `TOPICS`.
        rng: draws patterns, words and years; the year says nothing about the topic.
    """
    taken: set[str] = set()
    made = []
    for topic in topic_of_item:
        title = _title(TOPICS[topic], rng)
        while title in taken:
            title = _title(TOPICS[topic], rng)
        taken.add(title)
        made.append(title)
    return made


def _title(topic: Topic, rng: np.random.Generator) -> str:
    pattern, adjective, noun, place = (
        words[rng.integers(len(words))]
        for words in (topic.patterns, topic.adjectives, topic.nouns, topic.places)
    )
    name = pattern.format(a=adjective, n=noun, p=place)
    year = FIRST_YEAR + int(rng.integers(LAST_YEAR - FIRST_YEAR + 1))
    return f"{name} ({year})"
