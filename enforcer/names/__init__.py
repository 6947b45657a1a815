"""What a task type may be called.

A name is held against every spelling that means something already (`KnownNames`), layer by layer:
1. Grammar: `^[a-z][a-z0-9]*(-[a-z0-9]+)*$`, 2-48 characters, at most five words.
2. `exists`, `alias`, `reserved`: the spelling has a meaning, and never gets another.
3. `noise`: an existing tag once versions, dates, stages and noise words are left out.
4. `stems`: the same words, abbreviations (`seq` = `sequence`) and plurals evened out.
5. `order`: the same words in another order. Around `to` the order is the meaning: `image-to-text`, `text-to-image`.
6. `separators`: the same letters.
7. `confusable`: letters that look alike (`l 1 i`, `o 0`, `rn m`, other scripts').
8. `typo`: one slip of the hand from a name of six letters or more, or one in each of its long words.
9. `extends`: an existing tag with words around it (`dpo-chinese`).
What is found in 1-7 blocks. A typo blocks unless the author says in `distinct_from` why the tag is another thing; what
extends a tag needs that, or the tag as `parent`. Which words are noise or abbreviations is data (`NameRules`).
"""

from enforcer.names.check import (
    Match as Match,
    NameVerdict as NameVerdict,
    Verdict as Verdict,
    check_name as check_name,
    is_canonical as is_canonical,
)
from enforcer.names.known import KnownNames as KnownNames, Spelling as Spelling
from enforcer.names.readings import to_kebab as to_kebab
from enforcer.names.rules import NameRules as NameRules
