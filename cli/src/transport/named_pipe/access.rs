//! Access: whose a pipe is, and who may do what with it, in words.

use std::io;

use pipebus_windows::account::{self, name_of};
use pipebus_windows::descriptor::{ALL_ACCESS, Descriptor, Entry, USE_PIPE, specific};
use serde::Serialize;

/// What a security descriptor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// `None`, if it does not say.
    pub(crate) owner: Option<Account>,
    /// Whether nothing is added to it by inheritance.
    pub(crate) is_protected: bool,
    /// In order; `None` if everybody may do everything.
    pub(crate) grants: Option<Vec<Grant>>,
    /// As people write it (SDDL).
    pub(crate) sddl: String,
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// What somebody may do, or may not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Grant {
    /// It allows; otherwise, it denies.
    pub(crate) allows: bool,
    pub(crate) who: Account,
    pub(crate) may: Vec<May>,
    /// As bits.
    pub(crate) rights: u32,
}

/// What can be done with a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum May {
    Everything,
    /// Read and write, as a client does.
    Use,
    Read,
    Write,
    /// Make instances of it, and so pretend to be the server.
    Serve,
    /// Change who may do what, or whose it is.
    Change,
}

/// Everyone, and those who come as guests, from the network, or without a name ("Well-known SIDs" in Microsoft's
/// documentation).
pub(crate) const EVERYONE: &str = "S-1-1-0";
pub(crate) const NETWORK: &str = "S-1-5-2";
pub(crate) const ANONYMOUS: &str = "S-1-5-7";
const GUESTS: &str = "S-1-5-32-546";

/// Whoever is the owner.
const OWNER_RIGHTS: &str = "S-1-3-4";

/// Rights ("File Access Rights Constants" in Microsoft's documentation).
const READ_DATA: u32 = 0x1;
const WRITE_DATA: u32 = 0x2;
const CREATE_PIPE_INSTANCE: u32 = 0x4;
const WRITE_DAC: u32 = 0x0004_0000;
const WRITE_OWNER: u32 = 0x0008_0000;

impl Access {
    /// May ask others for names, which takes time.
    pub(crate) fn of(descriptor: &Descriptor) -> io::Result<Access> {
        let grants = descriptor.entries()?.map(|entries| entries.iter().map(Grant::of).collect());
        Ok(Access {
            owner: descriptor.owner()?.map(Account::of),
            is_protected: descriptor.is_protected()?,
            grants,
            sddl: descriptor.to_sddl()?,
        })
    }

    /// Whom it lets use the pipe, in words.
    pub(crate) fn admits(&self) -> String {
        let Some(grants) = &self.grants else { return "everyone".to_owned() };
        let mut names: Vec<&str> = Vec::new();
        for grant in grants.iter().filter(|grant| grant.allows && grant.has(USE_PIPE)) {
            if !names.contains(&&*grant.who.name) {
                names.push(&grant.who.name);
            }
        }
        if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
    }

    /// Whether it lets somebody use the pipe: entries count in their order.
    pub(crate) fn lets_in(&self, who: &account::Account) -> bool {
        let Some(grants) = &self.grants else { return true };
        let owns = self.owner.as_ref().is_some_and(|owner| owner.id == who.sid || who.groups.contains(&owner.id));
        let mut wanted = USE_PIPE;
        for grant in grants {
            let sid = &grant.who.id;
            let is_denied = !grant.allows && who.only_denied.contains(sid);
            if !(*sid == who.sid || who.groups.contains(sid) || is_denied || sid == OWNER_RIGHTS && owns) {
                continue;
            }
            let rights = specific(grant.rights);
            match grant.allows {
                true => wanted &= !rights,
                false if wanted & rights != 0 => return false,
                false => {}
            }
            if wanted == 0 {
                return true;
            }
        }
        false
    }

    /// Whom it lets in who need not be anybody in particular.
    pub(crate) fn open_to(&self) -> Vec<&str> {
        let Some(grants) = &self.grants else { return vec!["everyone"] };
        let anybody = [EVERYONE, NETWORK, ANONYMOUS, GUESTS];
        let open = grants.iter().filter(|grant| grant.allows && anybody.contains(&&*grant.who.id));
        open.map(|grant| &*grant.who.name).collect()
    }

    /// Whether it denies those who come from the network before it allows anybody anything.
    pub(crate) fn denies_network(&self) -> bool {
        let mut grants = self.grants.iter().flatten().take_while(|grant| !grant.allows);
        grants.any(|grant| grant.who.id == NETWORK && grant.has(READ_DATA | WRITE_DATA))
    }

    /// Who may make instances besides those whom clients trust.
    pub(crate) fn servers(&self, is_trusted: impl Fn(&str) -> bool) -> Vec<&str> {
        let Some(grants) = &self.grants else { return vec!["everyone"] };
        let others = grants.iter().filter(|grant| grant.allows && grant.has(CREATE_PIPE_INSTANCE));
        let others = others.filter(|grant| grant.who.id != OWNER_RIGHTS && !is_trusted(&grant.who.id));
        others.map(|grant| &*grant.who.name).collect()
    }
}

impl Account {
    pub(crate) fn of(id: String) -> Account {
        Account { name: name_of(&id), id }
    }
}

impl Grant {
    fn of(entry: &Entry) -> Grant {
        let who = Account::of(entry.sid.clone());
        Grant { allows: entry.allows, who, may: may(entry.rights), rights: entry.rights }
    }

    fn has(&self, rights: u32) -> bool {
        specific(self.rights) & rights == rights
    }

    /// `may use it` and the like.
    pub(crate) fn in_words(&self) -> String {
        let words = self.may.iter().map(|may| match may {
            May::Everything => "do everything",
            May::Use => "use it",
            May::Read => "read",
            May::Write => "write",
            May::Serve => "make instances",
            May::Change => "change who may",
        });
        let words: Vec<&str> = words.collect();
        let words = if words.is_empty() { "do nothing with it".to_owned() } else { words.join(", ") };
        format!("{} {words}", if self.allows { "may" } else { "may not" })
    }
}

fn may(rights: u32) -> Vec<May> {
    let rights = specific(rights);
    let has = |all: u32| rights & all == all;
    if has(ALL_ACCESS) {
        return vec![May::Everything];
    }
    let uses = has(READ_DATA | WRITE_DATA);
    let all = [
        (uses, May::Use),
        (!uses && has(READ_DATA), May::Read),
        (!uses && has(WRITE_DATA), May::Write),
        (has(CREATE_PIPE_INSTANCE), May::Serve),
        (rights & (WRITE_DAC | WRITE_OWNER) != 0, May::Change),
    ];
    all.into_iter().filter_map(|(if_so, may)| if_so.then_some(may)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: &str = "S-1-5-21-1-2-3-1001";
    const BOB: &str = "S-1-5-21-1-2-3-1002";
    const STAFF: &str = "S-1-5-21-1-2-3-2000";

    fn access(sddl: &str) -> Access {
        Access::of(&Descriptor::parse(sddl).unwrap()).unwrap()
    }

    fn who(sid: &str, groups: &[&str]) -> account::Account {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        account::Account { sid: sid.to_owned(), groups, only_denied: Vec::new() }
    }

    #[test]
    fn rights_are_told_in_words() {
        for (rights, words) in [
            ("GA", "may do everything"),
            ("FA", "may do everything"),
            ("0x12019b", "may use it"),
            ("GRGW", "may use it, make instances"),
            ("GR", "may read"),
            ("0x2", "may write"),
            ("GW", "may write, make instances"),
            ("WD", "may change who may"),
            ("RC", "may do nothing with it"),
        ] {
            let access = access(&format!("D:(A;;{rights};;;{ANN})"));
            assert_eq!(access.grants.unwrap()[0].in_words(), words, "{rights}");
        }
        assert_eq!(access("D:(D;;GA;;;AN)").grants.unwrap()[0].in_words(), "may not do everything");
    }

    #[test]
    fn the_first_entry_that_speaks_of_somebody_counts() {
        let check = |sddl: &str, expected: [bool; 3]| {
            let access = access(sddl);
            let all = [who(ANN, &[]), who(BOB, &[STAFF]), who(BOB, &[])];
            assert_eq!(all.map(|who| access.lets_in(&who)), expected, "{sddl}");
        };
        check(&format!("D:(A;;GA;;;{ANN})"), [true, false, false]);
        check(&format!("D:(D;;GR;;;{STAFF})(A;;0x12019b;;;{BOB})"), [false, false, true]);
        check(&format!("D:(A;;GR;;;{BOB})(A;;0x12019b;;;{STAFF})"), [false, true, false]);
        check(&format!("O:{ANN}D:(A;;GA;;;OW)"), [true, false, false]);
        check("O:SY", [true; 3]);
        check("D:", [false; 3]);
    }

    #[test]
    fn those_who_are_let_in_have_names() {
        assert_eq!(access("O:SY").admits(), "everyone");
        assert_eq!(access("D:").admits(), "nobody");
        let both = access(&format!("D:(D;;GA;;;AN)(A;;0x12019b;;;{ANN})(A;;GA;;;{ANN})(A;;GR;;;{BOB})"));
        assert_eq!(both.admits(), ANN);
    }

    #[test]
    fn what_lets_anybody_in_or_pretend_is_found() {
        let me = |sid: &str| sid == ANN;
        let good = access(&format!("D:P(D;;GA;;;NU)(A;;GA;;;{ANN})(A;;0x12019b;;;{BOB})"));
        assert!(good.open_to().is_empty() && good.servers(me).is_empty() && good.denies_network());
        let bad = access(&format!("D:(A;;0x12019b;;;WD)(A;;GW;;;{BOB})(D;;GA;;;NU)"));
        assert_eq!((bad.open_to().len(), bad.servers(me)), (1, vec![BOB]));
        assert!(!bad.denies_network());
        assert_eq!(access("O:SY").servers(me), ["everyone"]);
    }
}
