use super::*;

#[test]
fn odd_addresses_decode_alike() {
    let row: Vec<f32> = (0..512).map(|i| (i * 37 % 101) as f32 / 7.0 - 4.0).collect();
    for ty in GgmlType::ALL {
        let (mut shifted, mut bytes) = (vec![0u8], vec![]);
        ty.quantize_row(&mut shifted, &row);
        ty.quantize_row(&mut bytes, &row);
        let (mut a, mut b) = (vec![0.0; 512], vec![0.0; 512]);
        ty.dequantize_row(&mut a, &shifted[1..]);
        ty.dequantize_row(&mut b, &bytes);
        assert_eq!(a, b, "{}", ty.name());
    }
}

#[test]
fn numbers_name_their_formats() {
    for ty in GgmlType::ALL {
        assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
    }
    assert_eq!(GgmlType::from_id(20), None, "IQ4_NL is not computed with");
    assert!(GgmlType::ALL.windows(2).all(|pair| pair[0].bits() >= pair[1].bits()), "by falling size");
}
