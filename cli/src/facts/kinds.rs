//! Names of what is proposed for Linux, or another program's: what they stand for.

use heirloom_kho::linux::Opaque;

use crate::next::name;

/// What a kind of file, a state or a subtree is; `None` if its name is none that is known. The version is not
/// looked at.
pub(super) fn of(what: Opaque, says: &str) -> Option<&'static str> {
    let of = match (what, name(says)) {
        (Opaque::File, "hugetlb" | "huge-memfd") => "a memfd of huge pages",
        (Opaque::File, "guest_memfd_luo") => "KVM's memory of a guest",
        (Opaque::File, "kvm_vm_luo") => "KVM's virtual machine",
        (Opaque::File, "kvm_vcpu_luo" | "kvm_vcpu_luo_x86" | "kvm_vcpu_luo_arm64") => {
            "KVM's virtual CPU"
        }
        (Opaque::File, "vfio-pci") => "VFIO's device",
        (Opaque::File, "iommufd") => "address spaces of devices",
        (Opaque::File, "dmabuf") => "memory that devices share",
        (Opaque::File, "mshv") => "Hyper-V's partition",
        (Opaque::File | Opaque::Subtree, "tmpfs") => "files of a tmpfs",
        (Opaque::File, "tmpfs-mnt") => "a tmpfs",
        (Opaque::File, "tmpfs-file") => "a file of a tmpfs",
        (Opaque::Flb, "hugetlb") => "the pools of huge pages",
        (Opaque::Flb, "pci") => "PCI devices that keep running",
        (Opaque::Flb, "iommu") => "IOMMU domains",
        _ => return None,
    };
    Some(of)
}

/// Which program a session of this name is of.
pub(crate) fn session(name: &str) -> Option<&'static str> {
    (name == "systemd").then_some("systemd's descriptor store; token 0 says which unit has which")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_known_in_any_version() {
        assert_eq!(of(Opaque::Flb, "pci-v1"), of(Opaque::Flb, "pci-v2"));
        assert!(of(Opaque::File, "kvm_vcpu_luo_arm64_v1").is_some());
        assert_eq!(of(Opaque::File, "pci-v2"), None);
        assert_eq!(of(Opaque::Subtree, "LUO"), None);
        assert!(session("systemd").is_some() && session("systemd-user").is_none());
    }
}
