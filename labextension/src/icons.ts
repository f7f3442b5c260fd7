import { LabIcon } from '@jupyterlab/ui-components';

import cameraSvg from '../style/icons/camera.svg';
import diffSvg from '../style/icons/diff.svg';
import forkSvg from '../style/icons/fork.svg';
import moonSvg from '../style/icons/moon.svg';

/** Snapshots. */
export const cameraIcon = new LabIcon({
  name: 'jupyter-cr:camera',
  svgstr: cameraSvg
});

/** How two differ. */
export const diffIcon = new LabIcon({
  name: 'jupyter-cr:diff',
  svgstr: diffSvg
});

/** A second kernel that goes on from the same state. */
export const forkIcon = new LabIcon({
  name: 'jupyter-cr:fork',
  svgstr: forkSvg
});

/** A kernel that hibernates. */
export const moonIcon = new LabIcon({
  name: 'jupyter-cr:moon',
  svgstr: moonSvg
});
